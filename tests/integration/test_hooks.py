"""Webhooks over HTTP: who may come in, what is answered, and what stays out of logs and memory."""

import base64
import http.client
import json
import logging
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from tests.fakes.driver_c import webhook
from tests.harness.mdm_node import MdmNode
from tests.harness.waiting import eventually

FIELDS = {
    "name": "Jamf Pro",
    "kind": "jamf",
    "settings": {"url": "https://mdm.example", "client_id": "bridge", "client_secret": "x"},
}
UPLOAD = webhook("RestAPIOperation", objectTypeName="Package", restAPIOperationType="PUT")
MIB = 1024 * 1024


@pytest.fixture
def node(tmp_path: Path) -> Iterator[MdmNode]:
    with MdmNode(tmp_path) as made:
        yield made
        Sender.close_all()


@pytest.fixture
def server(node: MdmNode) -> str:
    id: str = node.api("POST", "/mdm/servers", FIELDS)["id"]
    node.on_loop(lambda: node.running.store.delete("jobs", {"name": "mdm.hint"}))
    return id


class Sender:
    """An MDM that sends webhooks over one connection as long as it holds."""

    made: ClassVar[list["Sender"]] = []

    def __init__(self, node: MdmNode) -> None:
        self.made.append(self)
        self._connection = http.client.HTTPConnection("127.0.0.1", node.running.port, timeout=30)

    def send(
        self, path: str, body: bytes = UPLOAD, method: str = "POST", **headers: str
    ) -> tuple[int, dict[str, object]]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request(method, path, body, {"Content-Type": "application/json", **named})
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read() or b"{}")

    @classmethod
    def close_all(cls) -> None:
        while cls.made:
            cls.made.pop()._connection.close()


def basic(secret: str) -> str:
    return "Basic " + base64.b64encode(f"ods:{secret}".encode()).decode()


def test_every_proof_opens_the_door_and_the_job_is_there_before_the_answer(
    node: MdmNode, server: str
) -> None:
    secret, sender = node.secret(server), Sender(node)
    assert sender.send(f"/hooks/{server}", X_ODS_Hook_Token=secret)[0] == 202
    (job,) = node.find("jobs", {"name": "mdm.hint"})
    assert job["args"] == {"server": server, "reason": "webhook: sync_package"}
    assert sender.send(f"/hooks/{server}", Authorization=basic(secret))[0] == 202
    assert sender.send(f"/hooks/{server}/{secret}")[0] == 202
    eventually(lambda: node.api("GET", f"/mdm/servers/{server}")["health"].get("hooks_duplicate") == 2)
    health = node.api("GET", f"/mdm/servers/{server}")["health"]
    assert health["last_hook_event"] == "RestAPIOperation"
    assert health["last_hook_at"].endswith("Z")


def test_strangers_are_refused_counted_and_never_heard(node: MdmNode, server: str) -> None:
    sender = Sender(node)
    for headers in ({}, {"X_ODS_Hook_Token": "wrong"}, {"Authorization": basic("wrong")}):
        status, problem = sender.send(f"/hooks/{server}", **headers)
        assert (status, problem["code"]) == (401, "not_authenticated")
        sender = Sender(node)
    assert sender.send(f"/hooks/{server}/wrong")[0] == 401
    assert Sender(node).send("/hooks/nobody")[0] == 404
    assert node.find("jobs", {"name": "mdm.hint"}) == []
    assert len(node.find("events", {"type": "mdm.hook_refused"})) == 1
    eventually(lambda: node.api("GET", f"/mdm/servers/{server}")["health"].get("hooks_refused") == 4)


def test_what_is_no_webhook(node: MdmNode, server: str) -> None:
    secret = node.secret(server)
    for body in (b"", b"\xff\xfe", b"[1, 2", b"{}", b"<a><b></a>"):
        status, problem = Sender(node).send(f"/hooks/{server}", body, X_ODS_Hook_Token=secret)
        assert (status, problem["code"]) == (400, "hook_invalid")
        assert "Traceback" not in json.dumps(problem)
    unknown = webhook("NewInTheNextVersion", whatever=[1])
    assert Sender(node).send(f"/hooks/{server}", unknown, X_ODS_Hook_Token=secret)[0] == 202
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        assert Sender(node).send(f"/hooks/{server}", b"", method, X_ODS_Hook_Token=secret)[0] == 405


def test_the_secret_of_a_path_is_not_logged(
    node: MdmNode, server: str, caplog: pytest.LogCaptureFixture
) -> None:
    secret = node.secret(server)
    with caplog.at_level(logging.DEBUG):
        assert Sender(node).send(f"/hooks/{server}/{secret}")[0] == 202
        assert Sender(node).send(f"/hooks/{server}/{secret}?x=1", b"", "GET")[0] == 405
        eventually(lambda: any(getattr(record, "path", "").endswith("/***") for record in caplog.records))
    logged = "".join(str(record.__dict__) for record in caplog.records)
    assert f"/hooks/{server}/***" in logged
    assert secret not in logged


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_a_body_has_a_bound(node: MdmNode, server: str, *, chunked: bool, known: bool) -> None:
    body = webhook("RestAPIOperation", padding="x" * (3 * MIB))
    token = node.secret(server) if known else "wrong"
    connection = http.client.HTTPConnection("127.0.0.1", node.running.port, timeout=30)
    pieces = (body[start : start + 65_536] for start in range(0, len(body), 65_536))
    connection.request(
        "POST",
        f"/hooks/{server}",
        pieces if chunked else body,
        {"X-ODS-Hook-Token": token},
        encode_chunked=chunked,
    )
    assert connection.getresponse().status == (413 if known else 401)
    connection.close()
    assert node.find("jobs", {"name": "mdm.hint"}) == []
    assert Sender(node).send(f"/hooks/{server}", X_ODS_Hook_Token=node.secret(server))[0] == 202


def test_a_body_that_is_promised_far_too_long_is_refused_at_once(node: MdmNode, server: str) -> None:
    with socket.create_connection(("127.0.0.1", node.running.port), timeout=30) as sock:
        head = f"POST /hooks/{server} HTTP/1.1\r\nHost: x\r\nX-ODS-Hook-Token: {node.secret(server)}\r\n"
        sock.sendall(f"{head}Content-Length: {10**12}\r\n\r\n".encode())
        assert b"413" in sock.recv(65_536).split(b"\r\n")[0]


def test_a_node_without_a_bridge_has_no_door(tmp_path: Path) -> None:
    with MdmNode(tmp_path, bridge=False) as node:
        status, problem = Sender(node).send("/hooks/x", X_ODS_Hook_Token="y")
        assert (status, problem["detail"]) == (404, "This node has no MDM bridge.")
        Sender.close_all()


def test_many_senders_at_once_make_one_sync(node: MdmNode, server: str) -> None:
    secret, each, senders = node.secret(server), 150, 8
    node.api("PATCH", f"/mdm/servers/{server}", {"webhooks": {"debounce_s": 300}})
    node.on_loop(lambda: node.running.store.delete("jobs", {"name": "mdm.hint"}))
    answers: Counter[int] = Counter()

    def work(first: int) -> None:
        sender = Sender(node)
        for number in range(first, first + each):
            body = webhook(
                "RestAPIOperation", number=number, objectTypeName="Package", restAPIOperationType="PUT"
            )
            answers[sender.send(f"/hooks/{server}", body, X_ODS_Hook_Token=secret)[0]] += 1

    threads = [threading.Thread(target=work, args=(number * each,)) for number in range(senders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {202: each * senders}
    assert len(node.find("jobs", {"name": "mdm.hint"})) == 1
    eventually(
        lambda: node.api("GET", f"/mdm/servers/{server}")["health"].get("hooks_received") == each * senders
    )
