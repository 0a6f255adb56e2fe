"""Notifications of real nodes: killed in the middle, and across a network."""

import contextlib
import http.client
import random
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.builders import make_file
from tests.fakes.receiver import Handler, Receiver
from tests.harness import Network, NodeProcess, eventually

EVENTS = 60
KILLS = 4


def hook(node: NodeProcess, receiver: Receiver, *events: str) -> dict[str, Any]:
    body = {
        "name": "hook",
        "kind": "webhook",
        "url": receiver.url,
        "allow_private": True,
        "events": list(events),
    }
    made: dict[str, Any] = node.api("POST", "/destinations", body)
    return made


def pages(node: NodeProcess, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = node.api("GET", f"{path}&limit=500" + (f"&cursor={cursor}" if cursor else ""))
        found += page["items"]
        if page["next"] is None:
            return found
        cursor = page["next"]


@pytest.mark.slow
def test_kills_lose_no_event_and_repeat_none_that_was_recorded(any_network: Network) -> None:
    """Tokens are made and revoked while the node is killed; each event arrives, and those on record once."""
    node = any_network.node("a")
    acknowledged: list[str] = []
    on_record: set[str] = set()  #: ids of messages that were recorded as delivered before a kill
    seen_then: dict[str, int] = {}
    turn = threading.Semaphore(0)

    def behave(handler: Handler) -> None:
        turn.acquire(timeout=30)  # one delivery for each turn, so that kills fall between and into them
        handler.answer(200)

    with Receiver(behave=behave) as receiver:
        made = hook(node, receiver, "token.created")
        chance = random.Random(4)
        for round in range(KILLS):
            for number in range(EVENTS // KILLS):
                with contextlib.suppress(OSError, http.client.HTTPException):
                    name = f"{round}-{number}"
                    node.api("POST", "/tokens", {"name": name, "role": "viewer"})
                    acknowledged.append(name)
                if chance.random() < 0.7:
                    turn.release()
            eventually(lambda: len(receiver.received) > 0)
            for row in pages(node, f"/deliveries?destination={made['id']}&state=delivered"):
                on_record.add(f"evt_{row['id'].partition('.')[0]}")
            seen_then = {id: receiver.ids.count(id) for id in on_record}
            node.kill9()
            turn.release(2)
            node.start()
        turn.release(10_000)

        def told() -> set[str]:
            return {each.verify(made["secret"])["data"]["details"]["name"] for each in receiver.received}

        eventually(lambda: told() >= set(acknowledged), 60, lambda: f"missing: {set(acknowledged) - told()}")
        eventually(
            lambda: not node.api("GET", f"/deliveries?destination={made['id']}&state=pending")["items"], 60
        )
        rows = pages(node, f"/deliveries?destination={made['id']}&")
        assert len(rows) == len({row["event"] for row in rows}) >= len(acknowledged) == EVENTS
        assert on_record, "something was on record before the last kill"
        assert {id: receiver.ids.count(id) for id in on_record} == seen_then
        # What was on its way when a kill came may come twice, with the same id: one for each kill.
        assert len(receiver.ids) - len(set(receiver.ids)) <= KILLS


def test_the_node_of_the_upload_tells_when_the_last_node_has_it(network: Network, tmp_path: Path) -> None:
    a, b, c = network.chain("a", "b", "c")
    file = make_file(tmp_path / "Everywhere.pkg", 300_000)
    eventually(lambda: len(a.api("GET", "/nodes")["items"]) == 3, message="a does not know all nodes")
    with Receiver() as receiver:
        secrets = {node.name: hook(node, receiver, "package.replicated")["secret"] for node in (a, b, c)}
        a.publish(file.path)
        message = eventually(lambda: receiver.received and receiver.received[0].verify(secrets["a"]), 60)
        details = message["data"]["details"]
        assert (details["filename"], details["sha256"], details["nodes"]) == (file.name, file.sha256, 3)
        for node in (b, c):
            assert node.holds(file.name, file.sha256)
        second = make_file(tmp_path / "second" / "Everywhere.pkg", 200_000)
        c.publish(second.path, replace="true")
        message = eventually(
            lambda: len(receiver.received) > 1 and receiver.received[1].verify(secrets["c"]), 60
        )
        assert message["data"]["details"]["sha256"] == second.sha256
        a.restart()
        assert len(receiver.received) == 2
    told = [node.api("GET", "/events?type=package.replicated")["items"] for node in (a, b, c)]
    assert [len(items) for items in told] == [1, 0, 1]
