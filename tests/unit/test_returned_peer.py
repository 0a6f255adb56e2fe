"""What is asked of a peer that can be reached, or knows this node, again."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.domain.errors import PeerNotFound, StoreUnavailable
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


def test_a_peer_that_leaves_while_its_record_is_read_ends_no_reconciliation() -> None:
    async def test() -> None:
        names = ("store", "catalogue", "holdings", "intake", "twins", "identity", "own", "calls")
        parts: dict[str, Any] = {name: SimpleNamespace() for name in names}

        async def known(*_: object) -> Any:
            return SimpleNamespace(record=SimpleNamespace(at=1))

        def get(_id: str) -> None:
            raise PeerNotFound("It left.")

        peers: Any = SimpleNamespace(active_ids=lambda: ["peer"], find=lambda _id: None, get=get)
        records: Any = SimpleNamespace(known=known)
        replication = Replication(
            **parts, peers=peers, records=records, supervisor=Supervisor(now=lambda: 0), now=lambda: 0
        )
        await replication.follow_peers()

    asyncio.run(test())
