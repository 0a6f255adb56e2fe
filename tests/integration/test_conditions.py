"""If-Match, If-None-Match and If-Unmodified-Since hold on everything that has a revision (RFC 9110, 13)."""

import base64
import itertools
from email.utils import formatdate
from typing import Any

import pytest

from tests.harness import Network
from tests.harness.node import Answer, NodeProcess

TUS = {"Tus-Resumable": "1.0.0"}
OCTETS = "application/offset+octet-stream"
OLD, NEW = b"as it was", b"as it is to be"
_numbers = itertools.count()
WRONG = '"0-nobody"'
LONG_AGO = formatdate(1_400_000_000, usegmt=True)


@pytest.fixture
def path(one_node: NodeProcess) -> str:
    """A package's address."""
    path = f"/api/v1/packages/condition-{next(_numbers)}.pkg"
    assert one_node.request("PUT", path, OLD).status == 201
    return path


def name(path: str) -> str:
    return path.rsplit("/", 1)[1]


def put(node: NodeProcess, path: str, **headers: str) -> Answer:
    return node.request("PUT", f"{path}?replace=true", NEW, as_headers(headers))


def patch(node: NodeProcess, path: str, **headers: str) -> Answer:
    return node.request("PATCH", path, b'{"notes": "changed"}', as_headers(headers))


def delete(node: NodeProcess, path: str, **headers: str) -> Answer:
    return node.request("DELETE", path, None, as_headers(headers))


def tus(node: NodeProcess, path: str, **headers: str) -> Answer:
    said = ",".join(
        f"{key} {base64.b64encode(value.encode()).decode()}"
        for key, value in (("filename", name(path)), ("replace", "true"))
    )
    own = {**TUS, "Content-Type": OCTETS, "Upload-Length": str(len(NEW)), "Upload-Metadata": said}
    return node.request("POST", "/api/v1/uploads", NEW, {**own, **as_headers(headers)})


def as_headers(given: dict[str, str]) -> dict[str, str]:
    return {key.replace("_", "-"): value for key, value in given.items()}


CHANGES = [put, patch, delete, tus]
every_change = pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)


def tags(node: NodeProcess, path: str) -> dict[str, str]:
    """Every strong entity tag that names the package as it is."""
    shown = node.request("GET", path)
    etag = shown.headers["etag"]
    return {
        "of the API": etag,
        "of the revision": etag.partition(".")[0] + '"',
        "of the bytes": node.head(name(path)).headers["etag"],
        "the bare revision": f'"{shown.json()["revision"]}"',
    }


@every_change
@pytest.mark.parametrize("kind", ["of the API", "of the revision", "of the bytes", "the bare revision"])
def test_a_tag_of_what_is_there_lets_it_change(
    one_node: NodeProcess, path: str, change: Any, kind: str
) -> None:
    tag = tags(one_node, path)[kind]
    assert change(one_node, path, If_Match=f'{WRONG}, {tag} ,"x"').status in {200, 201}
    if change is put:  # those bytes are no more, nor is that revision
        assert change(one_node, path, If_Match=tag).status == 412


@every_change
def test_any_package_lets_it_change(one_node: NodeProcess, path: str, change: Any) -> None:
    assert change(one_node, path, If_Match="*").status in {200, 201}


@every_change
@pytest.mark.parametrize(
    "condition",
    [
        {"If_Match": WRONG},
        {"If_Match": f"{WRONG}, W/{WRONG}"},
        {"If_Match": 'W/"REVISION"'},
        {"If_Match": '"REVISION-", "REVISION1", "REVISION-aaaaaaaaaaaa.1"'},
        {"If_None_Match": "*"},
        {"If_None_Match": '"REVISION"'},
        {"If_None_Match": 'W/"REVISION"'},
        {"If_None_Match": f'{WRONG}, "REVISION"'},
        {"If_Unmodified_Since": formatdate(1_400_000_000, usegmt=True)},
        {"If_Match": "*", "If_None_Match": "*"},
        {"If_Match": WRONG, "If_Unmodified_Since": formatdate(4_000_000_000, usegmt=True)},
    ],
    ids=str,
)
def test_what_does_not_hold_changes_nothing(
    one_node: NodeProcess, path: str, change: Any, condition: dict[str, str]
) -> None:
    before = one_node.package(name(path))
    assert before is not None
    revision = str(before["revision"])
    answer = change(
        one_node, path, **{key: value.replace("REVISION", revision) for key, value in condition.items()}
    )
    assert (answer.status, answer.json()["code"]) == (412, "precondition_failed")
    assert "nothing was changed" in answer.json()["detail"]
    assert one_node.package(name(path)) == before
    assert one_node.download(name(path)).body == OLD
    assert one_node.api("GET", "/uploads")["items"] == []


@every_change
@pytest.mark.parametrize(
    "condition",
    [
        {"If_None_Match": WRONG},
        {"If_Unmodified_Since": formatdate(4_000_000_000, usegmt=True)},
        {"If_Unmodified_Since": "yesterday"},  # no date: ignored, as RFC 9110 demands
        {"If_Match": "*", "If_Unmodified_Since": formatdate(1_400_000_000, usegmt=True)},
    ],
    ids=str,
)
def test_what_holds_lets_it_change(
    one_node: NodeProcess, path: str, change: Any, condition: dict[str, str]
) -> None:
    assert change(one_node, path, **condition).status in {200, 201}


@every_change
@pytest.mark.parametrize("value", ["", "7", "abc", '"a', '"a" "b"', "*, *", ",", "W/7"], ids=str)
@pytest.mark.parametrize("header", ["If_Match", "If_None_Match"])
def test_what_is_no_tag_is_refused(
    one_node: NodeProcess, path: str, change: Any, header: str, value: str
) -> None:
    answer = change(one_node, path, **{header: value})
    assert (answer.status, answer.json()["code"]) == (400, "invalid_input")
    assert one_node.download(name(path)).body == OLD


@pytest.mark.parametrize("change", [put, tus], ids=["put", "tus"])
def test_only_if_there_is_none(one_node: NodeProcess, change: Any) -> None:
    path = f"/api/v1/packages/condition-{next(_numbers)}.pkg"
    for condition in ({"If_Match": "*"}, {"If_Match": WRONG}):
        assert change(one_node, path, **condition).status == 412
        assert one_node.package(name(path)) is None
    assert change(one_node, path, If_None_Match="*").status == 201
    assert change(one_node, path, If_None_Match="*").status == 412, "the very file, too"
    one_node.api("DELETE", f"/packages/{name(path)}")
    assert change(one_node, path, If_Match="*").status == 412, "what was withdrawn is not there"
    assert change(one_node, path, If_None_Match="*").status == 201


def test_what_is_missing_is_missing_whatever_was_asked_for(one_node: NodeProcess) -> None:
    for change in (patch, delete):
        assert change(one_node, "/api/v1/packages/never-there.pkg", If_Match=WRONG).status == 404


def test_answers_carry_the_tag_of_the_next_change(one_node: NodeProcess, path: str) -> None:
    for change in (put, patch, delete):
        tag = tags(one_node, path)["of the API"]
        answer = change(one_node, path, If_Match=tag)
        assert answer.status == 200
        etag = one_node.request("GET", path).headers["etag"]
        assert answer.headers["etag"] == etag.partition(".")[0] + '"'


def test_the_tag_is_of_the_answer_too(one_node: NodeProcess, path: str) -> None:
    etag = one_node.request("GET", path).headers["etag"]
    assert one_node.request("HEAD", path).headers["etag"] == etag
    assert one_node.request("GET", path, None, {"If-None-Match": etag}).status == 304
    assert one_node.request("GET", path, None, {"If-None-Match": WRONG}).status == 200


@pytest.mark.parametrize("moment", ["put", "tus", "joined"])
def test_it_is_held_against_the_newest_record_when_the_bytes_are_here(
    any_network: Network, moment: str
) -> None:
    """A long upload: what it insists on was so when it began, and is not when it ends."""
    node = any_network.node("a")
    path = "/api/v1/packages/long.pkg"
    assert node.request("PUT", path, OLD).status == 201
    tag = tags(node, path)["of the API"]
    said = f"filename {base64.b64encode(b'long.pkg').decode()},replace {base64.b64encode(b'true').decode()}"
    if moment == "put":
        answer = slow_put(node, f"{path}?replace=true", tag)
    else:
        head = {**TUS, "Upload-Length": str(len(NEW)), "Upload-Metadata": said, "If-Match": tag}
        place = node.request("POST", "/api/v1/uploads", None, head).headers["location"]
        if moment == "joined":
            parts = {
                **TUS,
                "Upload-Length": str(len(NEW)),
                "Upload-Concat": "partial",
                "Content-Type": OCTETS,
            }
            piece = node.request("POST", "/api/v1/uploads", NEW, parts).headers["location"]
        node.api("PATCH", "/packages/long.pkg", {"notes": "somebody was faster"})
        if moment == "joined":
            final = {**TUS, "Upload-Metadata": said, "If-Match": tag, "Upload-Concat": f"final;{piece}"}
            answer = node.request("POST", "/api/v1/uploads", None, final)
        else:
            body = {**TUS, "Content-Type": OCTETS, "Upload-Offset": "0"}
            answer = node.request("PATCH", place, NEW, body)
    assert (answer.status, answer.json()["code"]) == (412, "precondition_failed")
    after = node.package("long.pkg")
    assert after is not None
    assert after["notes"] == "somebody was faster"
    assert node.download("long.pkg").body == OLD


def slow_put(node: NodeProcess, target: str, tag: str) -> Answer:
    """A PUT during whose body somebody else changes the package."""

    def body() -> Any:
        yield NEW[:3]
        node.api("PATCH", "/packages/long.pkg", {"notes": "somebody was faster"})
        yield NEW[3:]

    return node.request("PUT", target, body(), {"If-Match": tag}, chunked=True)


# Other things with a revision


def user(node: NodeProcess) -> tuple[str, bytes]:
    made = node.api("POST", "/users", {"name": f"u{next(_numbers)}", "password": "a long enough one"})
    return f"/api/v1/users/{made['name']}", b'{"role": "operator"}'


def destination(node: NodeProcess) -> tuple[str, bytes]:
    hook = {
        "name": f"d{next(_numbers)}",
        "kind": "webhook",
        "url": "http://127.0.0.1:1/",
        "allow_private": True,
    }
    return f"/api/v1/destinations/{node.api('POST', '/destinations', hook)['id']}", b'{"events": ["peer.*"]}'


def mdm_server(node: NodeProcess) -> tuple[str, bytes]:
    settings = {"url": "https://127.0.0.1:1", "client_id": "x", "client_secret": "y"}
    fields = {"name": f"m{next(_numbers)}", "kind": "jamf", "enabled": False, "settings": settings}
    return (
        f"/api/v1/mdm/servers/{node.api('POST', '/mdm/servers', fields)['id']}",
        b'{"intake": {"poll_s": 300}}',
    )


@pytest.mark.parametrize("thing", [user, destination, mdm_server], ids=lambda thing: thing.__name__)
def test_other_things_with_a_revision(one_node: NodeProcess, thing: Any) -> None:
    path, change = thing(one_node)
    first = one_node.request("GET", path).headers["etag"]
    for condition, status in (
        ({"If-Match": WRONG}, 412), ({"If-None-Match": "*"}, 412), ({"If-Match": "x"}, 400),
        *([({"If-Unmodified-Since": LONG_AGO}, 412)] if thing is not mdm_server else []),  # they have no date
    ):  # fmt: skip
        for method, body in (("PATCH", change), ("DELETE", None)):
            assert one_node.request(method, path, body, condition).status == status
    assert one_node.request("PATCH", path, change, {"If-Match": first}).status == 200
    assert one_node.request("PATCH", path, change, {"If-Match": first}).status == 412
    assert one_node.request("DELETE", path, None, {"If-Match": first}).status == 412
    second = one_node.request("GET", path).headers["etag"]
    assert one_node.request("DELETE", path, None, {"If-Match": second}).status == 204


def test_calls_that_know_no_conditions_refuse_them(one_node: NodeProcess) -> None:
    token = one_node.api("POST", "/tokens", {"name": "kept"})["id"]
    for method, path, body in (
        ("DELETE", f"/tokens/{token}", None),
        ("POST", "/tokens", b'{"name": "x"}'),
        ("DELETE", "/peers/nobody", None),
        ("DELETE", "/nodes/nobody", None),
        ("DELETE", "/users/admin/sessions", None),
        ("POST", "/packages/x.pkg/verify", b"{}"),
    ):
        for header in ("If-Match", "If-None-Match", "If-Unmodified-Since"):
            answer = one_node.request(method, f"/api/v1{path}", body, {header: "*"})
            assert (answer.status, answer.json()["code"]) == (400, "invalid_input"), (method, path)
            assert "nothing was changed" in answer.json()["detail"]
    assert token in [item["id"] for item in one_node.api("GET", "/tokens")["items"]]
