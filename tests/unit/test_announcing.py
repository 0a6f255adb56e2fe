"""When peers are told that our feed grew: at once, and less often while it keeps growing."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.service import replication as module
from appliance.service.replication import GATHER_S, Replication


class Feed:
    """A feed that is one record longer each time it is read, until it ends."""

    def __init__(self, ids: list[str]) -> None:
        self.ids = ids
        self.length = 0

    async def find(self, *_: Any, **__: Any) -> list[dict[str, Any]]:
        if self.length == len(self.ids):
            return []
        id = self.ids[self.length]
        self.length += 1
        record = {"kind": "package", "id": id, "revision": 1}
        return [{"seq": self.length, "kind": "package", "record_id": id, "record": record}]


async def story_of(monkeypatch: pytest.MonkeyPatch, ids: list[str]) -> list[Any]:
    """What is done for a feed that grows by these records; those called "theirs…" came from the peer."""
    story: list[Any] = []
    parts: dict[str, Any] = dict.fromkeys(("records", "catalogue", "peers", "identity", "own", "calls"))
    replication = Replication(
        store=cast(Any, Feed(ids)), holdings=cast(Any, SimpleNamespace()),
        intake=cast(Any, SimpleNamespace()), **parts,
    )  # fmt: skip
    replication._heard["peer"] = {(f"package:{id}", 1) for id in ids if id.startswith("theirs")}

    async def call(peer: str, docs: Any) -> None:
        story.append("told")

    async def sleep(seconds: float) -> None:
        story.append(seconds)

    monkeypatch.setattr(replication, "_call_announce", call)
    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    await replication._tell("peer")
    return story


def test_at_once_and_then_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    story = asyncio.run(story_of(monkeypatch, ["a", "b", "c", "d", "e", "f"]))
    assert story[::2] == ["told"] * 6
    assert story[1::2] == [GATHER_S * factor for factor in (1, 2, 4, 8, 8, 8)]


def test_a_pause_in_which_nothing_of_ours_came_starts_over(monkeypatch: pytest.MonkeyPatch) -> None:
    story = asyncio.run(story_of(monkeypatch, ["a", "b", "theirs1", "c"]))
    assert story == ["told", GATHER_S, "told", 2 * GATHER_S, GATHER_S, "told", GATHER_S]
