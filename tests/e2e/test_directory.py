"""People of a real LDAP server at real nodes: what each may do, and what happens when the directory changes or ends."""

import json
import re
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders import make_file
from tests.conftest import skip_or_fail
from tests.harness import Network, NodeProcess, eventually
from tests.harness.browser_client import BrowserClient
from tests.harness.command import ods
from tests.harness.directory import directory_settings
from tests.harness.node import Answer
from tests.harness.people import (
    ANNA,
    BEN,
    CARA,
    DORA,
    EVE,
    HELPDESK,
    READERS,
    company,
    password_of,
    uid,
)
from tests.harness.slapd import READER_PASSWORD, Authority, Slapd, find_slapd


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[Slapd, Slapd, Authority]]:
    """Two servers of one directory."""
    if find_slapd() is None:
        skip_or_fail("there is no slapd: apt-get install slapd ldap-utils")
    authority = Authority(tmp_path / "ca")
    made = [Slapd(tmp_path / name, company(), authority=authority) for name in ("first", "second")]
    try:
        yield made[0].start(), made[1].start(), authority
    finally:
        for server in made:
            server.dispose()


def asks(
    node: NodeProcess,
    who: str,
    method: str,
    path: str,
    body: bytes | None = None,
    password: str | None = None,
) -> Answer:
    """A request with somebody's own password of the directory."""
    basic = b64encode(f"{who}:{password_of(who) if password is None else password}".encode()).decode()
    return node.request(method, f"/api/v1{path}", body, {"Authorization": f"Basic {basic}"}, anonymous=True)


def change(node: NodeProcess, who: str, package: str, **values: object) -> Answer:
    return asks(node, who, "PATCH", f"/packages/{package}", json.dumps(values).encode())


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ldaps", "starttls"])
def test_roles_and_limits(
    network: Network, tmp_path: Path, servers: tuple[Slapd, Slapd, Authority], way: str
) -> None:
    first, _, authority = servers
    node = network.node("a", **directory_settings(authority, getattr(first, way)))
    data = make_file(tmp_path / "Some.pkg", 3000).path.read_bytes()

    assert asks(node, CARA, "GET", "/packages").status == 200
    assert asks(node, CARA, "PUT", "/packages/Some.pkg", data).status == 403
    assert asks(node, DORA, "GET", "/packages").status == 200, "by four levels of groups in groups"
    refused = asks(node, EVE, "GET", "/packages")
    assert (refused.status, "groups" in refused.json()["detail"]) == (401, True)

    assert asks(node, BEN, "PUT", "/packages/Some.pkg", data).status == 201, "into the stage that he may"
    assert asks(node, CARA, "GET", "/packages/Some.pkg").json()["stage"] == "test"
    promoted = change(node, BEN, "Some.pkg", stage="prod")
    assert (promoted.status, promoted.json()["code"]) == (403, "permission_denied")
    assert "prod" in promoted.json()["detail"]
    assert asks(node, BEN, "PUT", "/packages/Other.pkg?stage=prod", data).status == 403
    assert change(node, BEN, "Some.pkg", notes="tried").status == 200
    assert change(node, ANNA, "Some.pkg", stage="prod").status == 200
    assert change(node, BEN, "Some.pkg", notes="mine?").status == 403
    assert asks(node, BEN, "PUT", "/packages/Some.pkg?replace=true", data + b"x").status == 403
    assert asks(node, BEN, "DELETE", "/packages/Some.pkg").status == 403
    assert asks(node, BEN, "GET", "/users").status == 403

    listed = {user["name"]: user for user in asks(node, ANNA, "GET", "/users").json()["items"]}
    assert (listed[BEN]["role"], listed[BEN]["stages"], listed[BEN]["source"]) == (
        "operator", ["test"], "directory",
    )  # fmt: skip
    assert EVE not in listed
    token = asks(node, BEN, "POST", "/tokens", b'{"name": "script"}').json()
    assert token["stages"] == ["test"], "a token has no more than its maker"
    bearer = {"Authorization": f"Bearer {token['token']}"}
    assert (
        node.request("PUT", "/api/v1/packages/T.pkg?stage=prod", data, bearer, anonymous=True).status == 403
    )
    assert node.request("PUT", "/api/v1/packages/T.pkg", data, bearer, anonymous=True).status == 201
    assert asks(node, BEN, "POST", "/tokens", b'{"name": "more", "stages": ["prod"]}').status == 403
    changed = asks(node, ANNA, "PATCH", f"/users/{BEN}", b'{"role": "admin"}')
    assert (changed.status, "directory" in changed.json()["detail"]) == (409, True)
    assert password_of(BEN) not in node.log_text()
    assert READER_PASSWORD not in node.log_text()


@pytest.mark.parametrize(
    ("name", "password"),
    [
        (CARA, "wrong"),
        (CARA, ""),
        ("nobody", "wrong"),
        ("*", "anything"),
        ("*)(uid=*", "anything"),
        (f"{CARA})(|(uid=*", password_of(CARA)),
        (f"{CARA}*", password_of(CARA)),
        ("admin", password_of("admin")),  # of the directory, where an account of the node has the name
    ],
)
def test_the_same_answer_for_whoever_does_not_get_in(
    directory_node: NodeProcess, name: str, password: str
) -> None:
    refused = asks(directory_node, name, "GET", "/packages", password=password)
    assert (refused.status, refused.json()["detail"]) == (401, "Name or password are wrong.")


@pytest.fixture(scope="module")
def directory_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node with a directory, for tests that change nothing."""
    if find_slapd() is None:
        skip_or_fail("there is no slapd: apt-get install slapd ldap-utils")
    directory = tmp_path_factory.mktemp("directory")
    authority = Authority(directory / "ca")
    slapd = Slapd(directory / "slapd", company(), authority=authority)
    try:
        slapd.start()
        with Network(directory) as network:
            yield network.node("a", **directory_settings(authority, slapd.ldaps))
    finally:
        slapd.dispose()


@pytest.mark.slow
def test_sessions_of_people_end_when_their_groups_are_taken_away(
    network: Network, servers: tuple[Slapd, Slapd, Authority]
) -> None:
    slapd, _, authority = servers
    node = network.node("a", **directory_settings(authority, slapd.ldaps))
    ben = BrowserClient(node)
    assert ben.sign_in(BEN, password_of(BEN)).headers["location"] == "/ui/"
    assert "operator of test" in ben.get("/ui/").body.decode()
    upload = ben.get("/ui/upload").body.decode()
    assert re.findall(r'<option value="(\w+)"', upload) == ["test"]
    assert "no password of it" in ben.get("/ui/password").body.decode()
    data = {"current": password_of(BEN), "password": "a new password", "again": "a new password"}
    assert ben.form("/ui/password", {**data, "_xsrf": ben.xsrf()}).status == 409
    token = asks(node, BEN, "POST", "/tokens", b'{"name": "script"}').json()["token"]
    bearer = {"Authorization": f"Bearer {token}"}

    slapd.modify(f"dn: {HELPDESK}\nchangetype: modify\ndelete: member\nmember: {uid(BEN)}\n")
    eventually(lambda: ben.get("/ui/packages").status == 302, 40, node.tail)
    assert node.request("GET", "/api/v1/packages", None, bearer, anonymous=True).status == 401
    again = ben.sign_in(BEN, password_of(BEN))
    assert (again.status, "groups" in again.body.decode()) == (401, True)

    slapd.modify(f"dn: {READERS}\nchangetype: modify\nadd: member\nmember: {uid(BEN)}\n")
    assert ben.sign_in(BEN, password_of(BEN)).status == 303, "back, with less"
    assert node.request("GET", "/api/v1/packages", None, bearer, anonymous=True).status == 200
    assert node.request("PUT", "/api/v1/packages/T.pkg", b"x", bearer, anonymous=True).status == 403


@pytest.mark.slow
def test_failover_and_a_directory_that_is_down(
    network: Network, servers: tuple[Slapd, Slapd, Authority]
) -> None:
    first, second, authority = servers
    node = network.node("a", **directory_settings(authority, first.starttls, second.ldaps))
    first.stop()
    assert asks(node, CARA, "GET", "/packages").status == 200
    health = {server["url"]: server for server in node.api("GET", "/directory")["servers"]}
    assert (health[first.starttls]["healthy"], health[second.ldaps]["healthy"]) == (False, True)
    second.freeze()
    down = asks(node, BEN, "GET", "/packages")
    assert (down.status, down.json()["code"]) == (503, "directory_unavailable")
    assert "Accounts of this node still work" in down.json()["detail"]
    assert asks(node, CARA, "GET", "/packages").status == 200, "who signed in a moment ago goes on"
    page = BrowserClient(node).sign_in(DORA, password_of(DORA))
    assert (page.status, "does not answer" in page.body.decode()) == (503, True)
    assert node.api("GET", "/about")["name"] == "a", "the administrator of the node gets in"
    assert BrowserClient(node).sign_in("admin").headers["location"] == "/ui/"
    second.thaw()
    eventually(lambda: asks(node, BEN, "GET", "/packages").status == 200, 30, node.tail)


def test_the_test_shows_each_step(directory_node: NodeProcess) -> None:
    found = directory_node.api("POST", "/directory/test", {"username": BEN, "password": password_of(BEN)})
    assert found["ok"]
    assert [step["name"] for step in found["steps"]] == [
        "connect", "tls", "bind", "user", "password", "groups", "role",
    ]  # fmt: skip
    assert found["steps"][-1]["detail"] == f'"{BEN}" is operator of test'
    wrong = directory_node.api("POST", "/directory/test", {"username": BEN, "password": "wrong"})
    assert not wrong["ok"]
    assert [step["name"] for step in wrong["steps"] if not step["ok"]] == ["password"]

    done = ods(directory_node, "directory", "test", BEN)
    assert done.returncode == 0, done.stderr
    assert f'"{BEN}" is operator of test' in done.stdout
    nobody = ods(directory_node, "directory", "test", "nobody")
    assert (nobody.returncode, "nobody below" in nobody.stdout) == (1, True)
    shown = ods(directory_node, "directory", "show")
    assert "operator" in shown.stdout
    assert READER_PASSWORD not in shown.stdout + json.dumps(directory_node.api("GET", "/directory"))
