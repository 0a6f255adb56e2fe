"""The admin API over HTTP: lists, changes, errors, and inputs that make no sense."""

import asyncio
import base64
import contextlib
import hashlib
import json
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from openapi_spec_validator import validate

from appliance.domain.job import Job
from appliance.domain.states import JobState
from appliance.service.fetch_jobs import FETCH_SMALL_JOB, fetch_key, transfer_id
from appliance.store.opening import open_store
from appliance.store.queue import job_document
from tests.builders import make_file
from tests.harness.node import PASSWORD, Answer, NodeProcess
from tests.harness.waiting import eventually

NAMES = ["Alpha.pkg", "beta.pkg", "Gamma.pkg", "delta.pkg", "Epsilon.pkg"]
HUGE = 2**70
FAR = 2**45  #: UTC milliseconds


def cursor(*place: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


@pytest.fixture(scope="module")
def node(one_node: NodeProcess, tmp_path_factory: pytest.TempPathFactory) -> NodeProcess:
    """The node with a few packages of different sizes, stages and tags."""
    directory = tmp_path_factory.mktemp("files")
    for number, name in enumerate(NAMES):
        file = make_file(directory / name, 1000 * (number % 3), name)
        one_node.publish(
            file.path, stage="dev" if number % 2 else "prod", tags="odd" if number % 2 else "even,x"
        )
    return one_node


def ask(node: NodeProcess, path: str, **query: object) -> Answer:
    return node.request("GET", f"/api/v1{path}" + (f"?{urlencode(query)}" if query else ""))


def send(node: NodeProcess, method: str, path: str, body: Any, **headers: str) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return node.request(method, f"/api/v1{path}", data, headers)


def names(answer: Answer) -> list[str]:
    assert answer.status == 200, answer.body
    return [item["filename"] for item in answer.json()["items"]]


def refused(answer: Answer, status: int, code: str) -> dict[str, Any]:
    """Check the one shape of an error."""
    problem: dict[str, Any] = answer.json()
    assert (answer.status, problem["status"], problem["code"]) == (status, status, code), problem
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert problem["type"] == "about:blank"
    assert problem["title"]
    assert problem["detail"]
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in answer.body.decode()
    assert ".py" not in answer.body.decode()
    return problem


# Lists


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, ["Alpha.pkg", "beta.pkg", "delta.pkg", "Epsilon.pkg", "Gamma.pkg"]),
        ({"sort": "-filename"}, ["Gamma.pkg", "Epsilon.pkg", "delta.pkg", "beta.pkg", "Alpha.pkg"]),
        ({"sort": "changed_at"}, NAMES),
        ({"sort": "-changed_at"}, NAMES[::-1]),
        ({"q": "TA"}, ["beta.pkg", "delta.pkg"]),
        ({"stage": "dev"}, ["beta.pkg", "delta.pkg"]),
        ({"tag": "even"}, ["Alpha.pkg", "Epsilon.pkg", "Gamma.pkg"]),
        ({"tag": "eve"}, []),
        ({"presence": "held", "stage": "prod", "q": "a"}, ["Alpha.pkg", "Gamma.pkg"]),
        ({"presence": "damaged"}, []),
    ],
)
def test_filters_and_order(node: NodeProcess, query: dict[str, str], expected: list[str]) -> None:
    assert names(ask(node, "/packages", **query)) == expected


@pytest.mark.parametrize("sort", ["filename", "-filename", "size", "-size", "changed_at", "-changed_at"])
def test_pages_are_the_whole_in_pieces(node: NodeProcess, sort: str) -> None:
    whole = names(ask(node, "/packages", sort=sort))
    pieces: list[str] = []
    query: dict[str, object] = {"sort": sort, "limit": 2}
    while True:
        page = ask(node, "/packages", **query).json()
        assert page["total"] == len(whole)
        assert len(page["items"]) <= 2
        pieces += [item["filename"] for item in page["items"]]
        if page["next"] is None:
            break
        query["cursor"] = page["next"]
    assert pieces == whole


@pytest.mark.parametrize("path", ["/packages", "/transfers", "/jobs", "/events"])
@pytest.mark.parametrize(
    "query",
    [{"bogus": 1}, {"limit": 0}, {"limit": 501}, {"limit": "x"}, {"limit": HUGE}],
    ids=["unknown", "none", "many", "word", "huge"],
)
def test_queries_that_make_no_sense(node: NodeProcess, path: str, query: dict[str, object]) -> None:
    problem = refused(ask(node, path, **query), 400, "invalid_input")
    assert next(iter(query)) in problem["fields"]
    assert "limit" in problem["detail"], "it names what there is"


@pytest.mark.parametrize("path", ["/packages?sort=filename", "/packages?sort=-size", "/transfers?", "/jobs?"])
@pytest.mark.parametrize(
    "word",
    [
        "x",
        "!",
        "ä",
        "A" * 3000,
        cursor(),
        cursor(1),
        cursor(None, "x"),
        cursor([1], "x"),
        cursor({"gt": 1}, "x"),
        cursor(1, "x"),
        cursor("word", "x"),
        cursor("word", 1),
        cursor(HUGE, "x"),
        cursor(-HUGE, "x"),
        cursor("\ud800", "\ud800"),
        base64.urlsafe_b64encode(b"[" * 5000).decode(),
    ],
    ids=range(16),
)
def test_cursors_that_are_none_of_ours(node: NodeProcess, path: str, word: str) -> None:
    answer = node.request("GET", f"/api/v1{path}&cursor={quote(word)}")
    if answer.status != 200:
        refused(answer, 400, "invalid_input")


@pytest.mark.parametrize(
    "query", [{"since": HUGE}, {"before": HUGE}, {"since": -1}, {"type": "\x00"}, {"since": ""}]
)
def test_events_anywhere(node: NodeProcess, query: dict[str, object]) -> None:
    assert ask(node, "/events", **query).status in {200, 400}


def test_events_forward_and_backward(node: NodeProcess) -> None:
    newest = ask(node, "/events", limit=500).json()["items"]
    numbers = [item["seq"] for item in newest]
    assert numbers == sorted(numbers, reverse=True)
    oldest = ask(node, "/events", since=0, limit=3).json()
    assert [item["seq"] for item in oldest["items"]] == numbers[::-1][:3]
    more = ask(node, "/events", since=oldest["next"], limit=2).json()["items"]
    assert [item["seq"] for item in more] == numbers[::-1][3:5]
    back = ask(node, "/events", before=numbers[0], limit=2).json()["items"]
    assert [item["seq"] for item in back] == numbers[1:3]
    only = ask(node, "/events", type="package.published").json()["items"]
    assert {item["data"]["filename"] for item in only} >= set(NAMES)


# Packages


def test_one_package_in_full(node: NodeProcess) -> None:
    shown = ask(node, "/packages/Gamma.pkg").json()
    assert shown["size"] == 2000
    assert [(item["name"], item["presence"], item["current"]) for item in shown["replicas"]] == [
        ("solo", "held", True)
    ]
    assert shown == ask(node, f"/packages/{shown['id']}").json()
    manifest = node.request("GET", shown["manifest"]["url"]).json()
    assert (manifest["sha1"], len(manifest["chunks"])) == (shown["sha1"], 1)
    assert manifest["chunks"] == [shown["sha1"]], "one chunk: the file itself"
    refused(ask(node, "/packages/none.pkg"), 404, "package_unknown")


def test_changes_and_their_revisions(node: NodeProcess) -> None:
    before = ask(node, "/packages/Alpha.pkg").json()
    change = {"stage": "test", "tags": ["a", "b", "a"], "notes": "ä\n", "metadata": {"x": {"y": [1, None]}}}
    after = send(node, "PATCH", "/packages/Alpha.pkg", {**change, "revision": before["revision"]})
    assert after.status == 200
    shown = after.json()
    assert shown["revision"] > before["revision"]
    assert (shown["stage"], shown["tags"], shown["notes"]) == ("test", ["a", "b"], "ä\n")
    assert shown["metadata"] == change["metadata"]
    assert shown["sha256"] == before["sha256"]
    stale = send(node, "PATCH", "/packages/Alpha.pkg", {"notes": "x", "revision": before["revision"]})
    assert refused(stale, 409, "stale_revision")["revision"] == shown["revision"]
    unchanged = send(node, "PATCH", "/packages/Alpha.pkg", {"notes": "z"}).json()
    assert (unchanged["stage"], unchanged["tags"], unchanged["notes"]) == ("test", ["a", "b"], "z")
    send(node, "PATCH", "/packages/Alpha.pkg", {"stage": "prod", "tags": ["even", "x"]})


@pytest.mark.parametrize(
    "body",
    [
        b"nonsense",
        b"[]",
        b"null",
        b"5",
        b"\xff",
        b"[" * 100_000,
        b'{"notes": NaN}',
        b'{"notes": "\\ud800"}',
        b'{"metadata": {"x": 1e999}}',
        b'{"metadata": {"x": 12345678901234567890}}',
        b'{"metadata": {"x": %s}}' % (b"1" * 5000),
        b'{"metadata": {"\\udc00": 1}}',
        b'{"metadata": []}',
        b'{"stage": "none"}',
        b'{"stage": null, "bogus": 1}',
        b'{"tags": "word"}',
        b'{"tags": [""]}',
        b'{"tags": [5]}',
        b'{"tags": ["a,b"]}',
        b'{"notes": "%s"}' % (b"x" * 10_001),
        b'{"metadata": {"x": "%s"}}' % (b"x" * 70_000),
        b'{"metadata": {"x": %s1%s}}' % (b"[" * 30, b"]" * 30),
        b'{"metadata": {"x": %s1%s}}' % (b"[" * 900, b"]" * 900),
        b'{"revision": "one"}',
        b'{"revision": 1.5}',
    ],
    ids=range(25),
)
def test_changes_that_make_no_sense(node: NodeProcess, body: bytes) -> None:
    before = ask(node, "/packages/beta.pkg").json()
    answer = send(node, "PATCH", "/packages/beta.pkg", body)
    refused(answer, 400, "wire_invalid" if answer.json()["code"] == "wire_invalid" else "invalid_input")
    assert ask(node, "/packages/beta.pkg").json() == before


def test_a_body_that_is_too_large(node: NodeProcess) -> None:
    before = ask(node, "/packages/beta.pkg").json()
    with contextlib.suppress(OSError):  # the server may hang up before it has read all of it
        answer = send(node, "PATCH", "/packages/beta.pkg", b'{"notes":"' + b" " * 1_100_000 + b'"}')
        assert answer.status in {400, 413}
    assert ask(node, "/packages/beta.pkg").json() == before


def test_withdrawing(node: NodeProcess, tmp_path: Path) -> None:
    node.publish(make_file(tmp_path / "Leaving.pkg", 10).path)
    assert send(node, "DELETE", "/packages/Leaving.pkg", b"").json()["withdrawn"] is True
    for method, path in (("DELETE", ""), ("PATCH", "")):
        refused(send(node, method, f"/packages/Leaving.pkg{path}", {}), 410, "package_withdrawn")
    assert send(node, "POST", "/packages/Leaving.pkg/verify", {}).status == 404
    assert "Leaving.pkg" not in names(ask(node, "/packages"))
    assert "Leaving.pkg" in names(ask(node, "/packages", withdrawn="true"))
    assert ask(node, "/packages/Leaving.pkg").json()["replicas"] == []


def test_verifying(node: NodeProcess) -> None:
    answer = send(node, "POST", "/packages/Gamma.pkg/verify", {})
    assert answer.status == 202
    job = answer.json()["job"]["id"]
    eventually(lambda: ask(node, f"/jobs/{job}").json()["state"] == "done", 20)
    assert node.presence("Gamma.pkg") == "held"
    refused(send(node, "POST", f"/jobs/{job}/cancel", {}), 409, "invalid_transition")
    assert job in [item["id"] for item in ask(node, "/jobs", state="done", queue="hash").json()["items"]]
    refused(send(node, "POST", "/packages/none.pkg/verify", {}), 404, "package_unknown")


@pytest.mark.parametrize(
    ("job_state", "transfer_state", "after"),
    [("failed", "stalled", "stalled"), ("cancelled", "fetching", "fetching"), ("todo", "done", "done")],
)
def test_cancelling_a_fetch_job_stops_no_transfer_of_another_run(
    node: NodeProcess, job_state: str, transfer_state: str, after: str
) -> None:
    """A transfer has the id that all jobs for the same bytes lead to, those that are over too."""
    package = node.package("Gamma.pkg")
    assert package is not None
    sha256 = hashlib.sha256(job_state.encode()).hexdigest()
    transfer = transfer_id(package["id"], sha256)
    job = Job(
        id=secrets.token_hex(12), queue="small", name=FETCH_SMALL_JOB, key=fetch_key(transfer), run_at=FAR,
        state=JobState(job_state), args={"package": package["id"], "sha256": sha256},
    )  # fmt: skip
    doc = {
        "_id": transfer, "package": package["id"], "filename": "Gamma.pkg", "sha256": sha256, "size": 2000,
        "state": transfer_state, "bytes_done": 0, "chunks_done": 0, "chunks": 1, "rate": 0.0, "sources": [],
        "error": "", "retry_at": 0, "cancelled_by": "", "attempts": 1, "moved_at": 0, "started_at": 0,
        "updated_at": 0, "pull": {},
    }  # fmt: skip

    async def prepare() -> None:
        store = await open_store("", node.data)
        await store.insert("transfers", doc)  # with `pull`, so that no reconciliation ends it meanwhile
        await store.insert("jobs", job_document(job))
        await store.close()

    asyncio.run(prepare())
    cancelled = send(node, "POST", f"/jobs/{job.id}/cancel", {})
    assert ask(node, f"/transfers/{transfer}").json()["state"] == after
    assert cancelled.status == 200, cancelled.body
    assert cancelled.json()["state"] == "cancelled"


# Answers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v1/about", 200),
        ("GET", "/api/v1/none", 404),
        ("GET", "/none", 404),
        ("POST", "/api/v1/about", 405),
        ("GET", "/api/v1/packages/none.pkg", 404),
        ("GET", "/health/live", 200),
        ("GET", "/Packages/Gamma.pkg", 200),
        ("GET", "/Packages/none.pkg", 404),
        ("GET", "/peer/v1/node", 401),
        ("BREW", "/api/v1/about", 405),
    ],
)
def test_every_answer_is_safe_to_show(node: NodeProcess, method: str, path: str, status: int) -> None:
    answer = node.request(method, path)
    assert answer.status == status
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-request-id"]
    assert "server" not in answer.headers
    if path.startswith(("/api/", "/peer/")):
        assert answer.headers["cache-control"] == "no-store"
    if status >= 400:
        assert answer.headers["content-type"].startswith("application/problem+json")
        assert b"Traceback" not in answer.body


@pytest.mark.parametrize(
    "path",
    [
        *("/api/v1/about", "/api/v1/packages", "/api/v1/packages/Gamma.pkg", "/api/v1/events.csv"),
        *("/api/v1/docs", "/api/v1/openapi.json", "/health/ready", "/metrics", "/", "/ui/sign-in"),
    ],
)
def test_head_is_get_without_the_body(node: NodeProcess, path: str) -> None:
    get, head = node.request("GET", path), node.request("HEAD", path)
    assert get.status < 400
    assert (head.status, head.body) == (get.status, b"")
    for name in ("content-type", "location"):
        assert head.headers.get(name) == get.headers.get(name), name


def test_the_live_stream_has_no_head(node: NodeProcess) -> None:
    assert node.request("HEAD", "/ui/live").status == 405


@pytest.mark.parametrize("value", ["Basic é", "Basic " + "é" * 50, "Bearer é", "Bearer " + "x" * 50_000, "é"])
def test_headers_that_are_not_even_ascii(node: NodeProcess, value: str) -> None:
    answer = node.request(
        "GET", "/api/v1/about", None, {"Authorization": value.encode("latin-1").decode("latin-1")}
    )
    assert answer.status in {401, 429}
    assert b"Traceback" not in answer.body


@pytest.mark.parametrize(
    "name", ["Upload-Length", "Upload-Offset", "Upload-Metadata", "Upload-Checksum", "Upload-Concat"]
)
@pytest.mark.parametrize("value", ["9" * 5000, "é", "9" * 19, "sha1 é", "filename é", "final;é"])
def test_upload_headers_that_make_no_sense(node: NodeProcess, name: str, value: str) -> None:
    base = {"Tus-Resumable": "1.0.0", "Upload-Length": "5", "Upload-Metadata": "filename YS5wa2c="}
    made = node.request("POST", "/api/v1/uploads", b"", base)
    assert made.status == 201
    location = made.headers["location"]
    path = location[location.index("/api") :]
    patch = {**base, "Content-Type": "application/offset+octet-stream", "Upload-Offset": "0"}
    for method, target, headers in (("POST", "/api/v1/uploads", base), ("PATCH", path, patch)):
        answer = node.request(method, target, b"x", {**headers, name: value})
        assert answer.status in {201, 204, 400, 404, 409, 413}, (method, answer.body)
    node.request("DELETE", path, None, base)


def test_nothing_went_wrong_inside(node: NodeProcess) -> None:
    """Whatever the other tests sent: no request ended in an unexpected error."""
    failures = list(node.lines("request_failed"))
    assert failures == []
    assert PASSWORD not in node.log_text()


def test_the_description_is_served(node: NodeProcess) -> None:
    served = ask(node, "/openapi.json").json()
    validate(served)
    assert served["openapi"].startswith("3.1")
    docs = ask(node, "/docs")
    assert docs.status == 200
    assert docs.headers["content-type"].startswith("text/html")


# Accounts


@pytest.fixture(scope="module")
def people(node: NodeProcess) -> dict[str, str]:
    """The Authorization headers of one account of each role."""
    found = {}
    for role in ("viewer", "operator", "admin"):
        node.api("POST", "/users", {"name": f"a-{role}", "password": PASSWORD, "role": role})
        found[role] = "Basic " + base64.b64encode(f"a-{role}:{PASSWORD}".encode()).decode()
    return found


@pytest.mark.parametrize(
    ("method", "path", "body", "least"),
    [
        ("GET", "/packages", None, "viewer"),
        ("GET", "/system", None, "viewer"),
        ("GET", "/peers", None, "viewer"),
        ("GET", "/tokens", None, "viewer"),
        ("PATCH", "/packages/none.pkg", {}, "operator"),
        ("DELETE", "/packages/none.pkg", None, "operator"),
        ("POST", "/packages/none.pkg/verify", {}, "operator"),
        ("PUT", "/packages/..", b"x", "operator"),
        ("POST", "/uploads", b"", "operator"),
        ("POST", "/jobs/00/retry", {}, "operator"),
        ("POST", f"/transfers/{'a' * 32}-{'0' * 16}/cancel", {}, "operator"),
        ("GET", "/users", None, "admin"),
        ("POST", "/users", {"name": "", "password": ""}, "admin"),
        ("DELETE", "/users/none", None, "admin"),
        ("PATCH", "/users/none", {"password": PASSWORD}, "admin"),
        ("PATCH", "/users/a-viewer", {"role": "admin"}, "admin"),
        ("GET", "/peers/invites", None, "admin"),
        ("POST", "/peers/invites", {"expires_in": 1}, "admin"),
        ("POST", "/peers/join", {"invite": "x"}, "admin"),
        ("DELETE", "/peers/none", None, "admin"),
        ("DELETE", f"/peers/invites/{'0' * 16}", None, "admin"),
    ],
)
def test_what_each_role_may(
    node: NodeProcess, people: dict[str, str], method: str, path: str, body: Any, least: str
) -> None:
    roles = list(people)
    for role in roles:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        answer = node.request(method, f"/api/v1{path}", data, {"Authorization": people[role]})
        if roles.index(role) < roles.index(least):
            assert refused(answer, 403, "permission_denied")
        else:
            assert answer.status not in {401, 403, 500}, answer.body
    if path == "/users/a-viewer":
        node.api("PATCH", path, {"role": "viewer"})


@pytest.mark.parametrize("path", ["/users", "/peers/invites", "/settings", "/directory", "/about"])
def test_head_needs_the_role_that_get_needs(node: NodeProcess, people: dict[str, str], path: str) -> None:
    for role, authorization in people.items():
        head, get = (
            node.request(method, f"/api/v1{path}", None, {"Authorization": authorization}).status
            for method in ("HEAD", "GET")
        )
        assert head == get, role
        assert (get == 403) == (path != "/about" and role != "admin"), (role, get)


def test_a_token_of_less_rights_cannot_take_its_account_over(node: NodeProcess) -> None:
    for role in ("viewer", "operator"):
        token = node.api("POST", "/tokens", {"name": "x", "role": role})["token"]
        bearer = {"Authorization": f"Bearer {token}"}
        answer = send(node, "PATCH", "/users/admin", {"password": "taken over by a token"}, **bearer)
        refused(answer, 403, "permission_denied")
        refused(
            send(node, "POST", "/tokens", {"name": "y", "role": "admin"}, **bearer), 403, "permission_denied"
        )
    assert node.api("GET", "/about")["account"] == "admin"


def test_everybody_changes_their_own_password(node: NodeProcess) -> None:
    node.api("POST", "/users", {"name": "self", "password": PASSWORD})
    old, new = (
        {"Authorization": "Basic " + base64.b64encode(f"self:{word}".encode()).decode()}
        for word in (PASSWORD, PASSWORD[::-1])
    )
    assert send(node, "PATCH", "/users/self", {"password": PASSWORD[::-1]}, **old).status == 200
    assert node.request("GET", "/api/v1/about", None, old).status == 401
    assert node.request("GET", "/api/v1/about", None, new).status == 200
    refused(send(node, "PATCH", "/users/self", {"role": "admin"}, **new), 403, "permission_denied")
    node.api("DELETE", "/users/self")


def test_accounts_and_tokens_that_make_no_sense(node: NodeProcess) -> None:
    for path, body in (
        ("/users", {"name": "x" * 100, "password": PASSWORD}),
        ("/users", {"name": "x", "password": "short"}),
        ("/users", {"name": "x", "password": PASSWORD, "role": "root"}),
        ("/users", {"name": "x"}),
        ("/tokens", {"name": ""}),
        ("/tokens", {"name": "x", "expires_in": 1}),
        ("/tokens", {"name": "x", "expires_in": HUGE}),
        ("/tokens", {"name": "x", "role": "root"}),
        ("/peers/invites", {"expires_in": 1}),
        ("/peers/invites", {"expires_in": HUGE}),
        ("/peers/join", {"invite": "ods1.x"}),
        ("/peers/join", {}),
    ):
        problem = refused(send(node, "POST", path, body), 400, "invalid_input")
        assert PASSWORD not in json.dumps(problem)
    surrogate = b'{"name": "x", "password": "long enough a password \\ud800"}'
    refused(send(node, "POST", "/users", surrogate), 400, "invalid_input")


def test_invites_are_listed_without_their_secret_and_can_be_revoked(node: NodeProcess) -> None:
    made = node.api("POST", "/peers/invites", {"expires_in": 60})
    listed = ask(node, "/peers/invites")
    assert made["id"] in [item["id"] for item in listed.json()["items"]]
    assert made["invite"] not in listed.body.decode()
    assert made["invite"] not in node.log_text()
    refused(send(node, "POST", "/peers/join", {"invite": made["invite"]}), 409, "invite_refused")
    assert send(node, "DELETE", f"/peers/invites/{made['id']}", b"").status == 204
    refused(send(node, "DELETE", f"/peers/invites/{made['id']}", b""), 404, "peer_not_found")
