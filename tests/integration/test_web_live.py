"""Server-sent events: an open page learns what changed, and holds up nobody who stops the node."""

import contextlib
import http.client
import re
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


def signed_in(node: NodeProcess) -> BrowserClient:
    person = BrowserClient(node)
    person.sign_in("admin")
    return person


@contextlib.contextmanager
def listening(
    node: NodeProcess, topics: str, since: str = "", person: BrowserClient | None = None, last: str = ""
) -> Iterator[http.client.HTTPResponse]:
    """Open the stream as a page does."""
    person = person or signed_in(node)
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=30)
    cookie = "; ".join(f"{name}={value}" for name, value in person.cookies.items())
    headers = {"Cookie": cookie} | ({"Last-Event-ID": last} if last else {})
    with contextlib.closing(connection):
        connection.request("GET", f"/ui/live?topics={topics}&since={since}", headers=headers)
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


def mark_of(person: BrowserClient) -> str:
    found = re.search(r'<meta name="mark" content="([^"]+)">', person.get("/ui/packages").body.decode())
    assert found
    return found[1]


def test_what_changed_between_the_page_and_its_stream_is_told(node: NodeProcess, tmp_path: Path) -> None:
    person = signed_in(node)
    mark = mark_of(person)
    node.publish(make_file(tmp_path / "Between.pkg", 1000, 1).path)
    with listening(node, "packages", mark, person) as answer:
        assert told(answer) == "packages"
    with listening(node, "packages", mark_of(person), person) as answer:
        node.publish(make_file(tmp_path / "After.pkg", 1000, 2).path)
        assert told(answer) == "packages"
    # The node was started anew: what its counts meant is not known any more.
    node.stop()
    node.start()
    person = signed_in(node)
    with listening(node, "packages", mark, person) as answer:
        assert told(answer) == "packages"


def test_strangers_get_no_mark(node: NodeProcess) -> None:
    assert b'<meta name="mark" content="">' in BrowserClient(node).get("/ui/sign-in").body


def test_a_stream_that_was_cut_goes_on_where_it_was(node: NodeProcess, tmp_path: Path) -> None:
    person = signed_in(node)
    with listening(node, "packages", person=person) as answer:
        node.publish(make_file(tmp_path / "One.pkg", 1000, 1).path)
        lines = iter(lambda: answer.readline().decode().strip(), "data: packages")
        id = next(line for line in lines if line.startswith("id: ")).removeprefix("id: ")
    node.publish(make_file(tmp_path / "Two.pkg", 1000, 2).path)
    with listening(node, "packages", mark_of(person), person, last=id) as answer:
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
