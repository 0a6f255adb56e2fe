"""When peers are told that our feed grew: at once, and less often while it keeps growing."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.jobs.supervisor import Supervisor
from appliance.service import replication as module
from appliance.service.replication import GATHER_S, Replication


class Feed:
    """A feed that has grown by these records each time it is read, until it ends."""

    def __init__(self, steps: list[list[str]]) -> None:
        self.steps = steps
        self.length = 0

    async def find(self, *_: Any, **__: Any) -> list[dict[str, Any]]:
        if not self.steps:
            return []
        found = []
        for id in self.steps.pop(0):
            self.length += 1
            record = {"kind": "package", "id": id, "revision": 1}
            found.append({"seq": self.length, "kind": "package", "record_id": id, "record": record})
        return found


async def story_of(monkeypatch: pytest.MonkeyPatch, steps: list[list[str]]) -> list[Any]:
    """What is done for a feed that grows by these records; those called "theirs…" came from the peer."""
    theirs = {(f"package:{id}", 1) for step in steps for id in step if id.startswith("theirs")}
    story: list[Any] = []
    parts: dict[str, Any] = dict.fromkeys(
        ("records", "catalogue", "peers", "identity", "own", "calls", "now")
    )
    replication = Replication(
        store=cast(Any, Feed(steps)), holdings=cast(Any, SimpleNamespace()),
        intake=cast(Any, SimpleNamespace()), supervisor=Supervisor(now=lambda: 0),
        twins=cast(Any, SimpleNamespace()), **parts,
    )  # fmt: skip
    replication._heard["peer"] = theirs

    async def call(peer: str, docs: Any) -> None:
        story.append("told")

    async def sleep(seconds: float) -> None:
        story.append(seconds)

    monkeypatch.setattr(replication, "_call_announce", call)
    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    await replication._tell("peer")
    return story


def many(first: int) -> list[str]:
    return [f"p{number}" for number in range(first, first + 8)]


def test_at_once_and_less_often_while_much_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    story = asyncio.run(story_of(monkeypatch, [many(8 * step) for step in range(6)]))
    assert story[::2] == ["told"] * 6
    assert story[1::2] == [GATHER_S * factor for factor in (2, 4, 8, 8, 8, 8)]


def test_one_after_the_other_waits_for_nothing_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    story = asyncio.run(story_of(monkeypatch, [many(0), ["a"], ["b"], ["theirs1"], ["c"]]))
    assert story == ["told", 2 * GATHER_S, "told", GATHER_S, "told", GATHER_S, GATHER_S, "told", GATHER_S]
