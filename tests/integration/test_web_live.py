"""Server-sent events: an open page learns what changed, and holds up nobody who stops the node."""

import contextlib
import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders import make_file
from tests.harness import Network
from tests.harness.browser_client import BrowserClient
from tests.harness.node import NodeProcess


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    with Network(tmp_path / "nodes") as network:
        yield network.node("Amsterdam")


@contextlib.contextmanager
def listening(node: NodeProcess, topics: str) -> Iterator[http.client.HTTPResponse]:
    """Open the stream as a page does."""
    person = BrowserClient(node)
    person.sign_in("admin")
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=30)
    cookie = "; ".join(f"{name}={value}" for name, value in person.cookies.items())
    with contextlib.closing(connection):
        connection.request("GET", f"/ui/live?topics={topics}", headers={"Cookie": cookie})
        with contextlib.closing(connection.getresponse()) as answer:
            yield answer


def told(answer: http.client.HTTPResponse) -> str:
    """The topic of the next change."""
    while True:
        line = answer.readline().decode()
        assert line, "the stream ended"
        if line.startswith("data: "):
            return line.removeprefix("data: ").strip()


def test_a_change_is_told(node: NodeProcess, tmp_path: Path) -> None:
    with listening(node, "packages") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        node.publish(make_file(tmp_path / "Live.pkg", 1000, 1).path)
        assert told(answer) == "packages"


def test_an_open_page_does_not_hold_up_the_stop(node: NodeProcess) -> None:
    with listening(node, "packages,events") as answer:
        assert node.stop() == 0
        assert answer.read().endswith(b"\n\n"), "the stream was ended, not cut"
    assert list(node.lines("connections_cut")) == []


@pytest.mark.parametrize("topics", ["", "secrets", "packages,accounts", "sessions"])
def test_other_topics_are_refused(node: NodeProcess, topics: str) -> None:
    with listening(node, topics) as answer:
        assert answer.status == 400
