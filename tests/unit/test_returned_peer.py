"""What is asked of a peer that can be reached, or knows this node, again."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.domain.errors import StoreUnavailable
from appliance.jobs.supervisor import Supervisor
from appliance.service.replication import Replication


def story(monkeypatch: pytest.MonkeyPatch, *, returned: bool, away: bool = False) -> list[str]:
    """What is done once the feed of a peer was read; `away`: and the database does not answer once after that."""
    done: list[str] = []

    async def inner() -> None:
        names = (
            "store",
            "records",
            "catalogue",
            "holdings",
            "intake",
            "twins",
            "peers",
            "identity",
            "own",
            "calls",
        )
        parts: dict[str, Any] = {name: SimpleNamespace() for name in names}
        replication = Replication(**parts, supervisor=Supervisor(now=lambda: 0), now=lambda: 0)

        async def read(_peer: str) -> bool:
            if returned and "read" not in done:
                replication.returned("peer")  # its answer is the sign of life
            done.append("read")
            return False

        async def fill(*, again: bool = False) -> None:
            if away and "away" not in done:
                done.append("away")
                raise StoreUnavailable("The database does not answer.")
            done.append("tried again" if again else "filled")

        async def compare(_peer: str) -> None:
            done.append("compared")

        monkeypatch.setattr(replication, "_read_all", read)
        monkeypatch.setattr(replication, "fill", fill)
        replication.on_gap = cast(Any, compare)
        replication.catch_up("peer")
        await replication._reading["peer"]
        if away:
            await replication.read("peer")

    asyncio.run(inner())
    return done


def test_what_is_missing_is_asked_of_a_peer_that_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it was silent, or did not know this node: while it was away packages were waiting for it."""
    assert story(monkeypatch, returned=True)[:3] == ["read", "tried again", "compared"]


def test_an_outage_puts_that_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert story(monkeypatch, returned=True, away=True)[:5] == [
        "read",
        "away",
        "read",
        "tried again",
        "compared",
    ]


def test_at_a_start_nothing_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert story(monkeypatch, returned=False) == ["read", "compared"]
