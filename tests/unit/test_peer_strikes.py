"""Strikes: first for one package, then for the peer, for longer each time, and forgotten in time."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from appliance.domain.errors import ClockSkew, PeerRefused, PeerUnreachable
from appliance.domain.states import PeerState
from appliance.peering.identity import Identity
from appliance.service.peers import DOWN_AFTER, PACKAGES, QUARANTINE_MS, STRIKES, Health, Peer, Peers
from appliance.store.opening import open_store

HOUR = 3_600_000
SECOND = 1000


class Clock:
    """Time that a test moves."""

    now = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now


def run(tmp_path: Path, test: Callable[[Peers, Clock], Awaitable[None]]) -> None:
    async def inner() -> None:
        store = await open_store("", tmp_path)
        try:
            clock = Clock()
            peers = _peers(store, clock)
            await peers.put(
                Peer(id="north", key=b"k", url="http://n", name="north", state=PeerState.ACTIVE), []
            )
            await test(peers, clock)
            # What a worker reads is the same.
            other = _peers(store, clock)
            await other.load()
            for package in ("a", "b", "c", "d", "x"):
                assert other.usable_sources(["north"], package) == peers.usable_sources(["north"], package)
        finally:
            await store.close()

    asyncio.run(inner())


def _peers(store: object, clock: Clock) -> Peers:
    return Peers(
        store=store,  # type: ignore[arg-type]
        identity=Identity.generate(),
        ca_file="",
        now=clock,
        jitter=lambda: 0.5,
        quarantine_ms=10 * SECOND,
    )


async def strike(peers: Peers, package: str, times: int = STRIKES) -> None:
    for _ in range(times):
        await peers.strike("north", f"Chunk 1 of {package} does not match.", package=package)


def usable(peers: Peers, package: str) -> bool:
    return peers.usable_sources(["north"], package) == ["north"]


def test_a_bad_package_says_nothing_of_the_others(tmp_path: Path) -> None:
    async def test(peers: Peers, clock: Clock) -> None:
        await strike(peers, "a", STRIKES - 1)
        assert usable(peers, "a")
        await strike(peers, "a", 1)
        assert not usable(peers, "a")
        assert usable(peers, "b")
        [away] = peers.set_aside(["north"], "a")
        assert (away.name, away.until) == ("north", clock.now + 10 * SECOND)
        assert "Chunk 1 of a" in away.reason
        assert list(peers.quarantined_for("north")) == ["a"]
        clock.now = away.until
        assert usable(peers, "a")

    run(tmp_path, test)


def test_each_time_is_longer_up_to_a_quarter_of_an_hour(tmp_path: Path) -> None:
    async def test(peers: Peers, clock: Clock) -> None:
        waits = []
        for _ in range(9):
            await strike(peers, "a")
            [away] = peers.set_aside(["north"], "a")
            waits.append((away.until - clock.now) // SECOND)
            clock.now = away.until
        assert waits == [10, 20, 40, 80, 160, 320, 640, 900, 900]
        assert QUARANTINE_MS == 900 * SECOND
        assert usable(peers, "b")

    run(tmp_path, test)


def test_several_packages_are_the_peer(tmp_path: Path) -> None:
    async def test(peers: Peers, clock: Clock) -> None:
        for package in "abcdefgh"[: PACKAGES - 1]:
            await strike(peers, package)
        assert usable(peers, "x")
        await strike(peers, "z")
        assert not usable(peers, "x")
        assert "Chunk 1 of z" in peers.set_aside(["north"], "x")[0].reason
        clock.now += 10 * SECOND
        assert usable(peers, "x")

    run(tmp_path, test)


def test_single_strikes_of_many_packages_are_none_of_it(tmp_path: Path) -> None:
    async def test(peers: Peers, _clock: Clock) -> None:
        for number in range(50):
            await strike(peers, f"package-{number}", 1)
        assert usable(peers, "x")
        assert usable(peers, "package-7")

    run(tmp_path, test)


def test_records_that_break_the_protocol_are_the_peer(tmp_path: Path) -> None:
    async def test(peers: Peers, _clock: Clock) -> None:
        await strike(peers, "")
        assert not usable(peers, "x")
        assert peers.quarantined_for("north") == {}

    run(tmp_path, test)


def test_an_hour_without_a_strike_forgets_all(tmp_path: Path) -> None:
    async def test(peers: Peers, clock: Clock) -> None:
        for package in "abc":
            await strike(peers, package)
        clock.now += HOUR + 1
        await strike(peers, "d", 1)
        assert list(peers.get("north").packages) == ["d"]
        assert peers.get("north").quarantines == 0
        await strike(peers, "d", STRIKES - 1)
        assert usable(peers, "x")
        assert (peers.set_aside(["north"], "d")[0].until - clock.now) == 10 * SECOND

    run(tmp_path, test)


def test_a_good_package_redeems_it_and_a_person_forgives(tmp_path: Path) -> None:
    async def test(peers: Peers, _clock: Clock) -> None:
        await strike(peers, "a")
        await strike(peers, "b")
        await peers.redeem("north", "a")
        assert usable(peers, "a")
        assert not usable(peers, "b")
        await peers.forgive("b")
        assert usable(peers, "b")

    run(tmp_path, test)


def test_what_is_remembered_is_bounded(tmp_path: Path) -> None:
    async def test(peers: Peers, clock: Clock) -> None:
        peer = peers.get("north")
        for number in range(700):
            clock.now += 1
            await strike(peers, f"p{number}", 1)
        assert len(peer.packages) <= 501
        assert "p699" in peer.packages

    run(tmp_path, test)


def test_a_clock_that_no_peer_agrees_with_is_told(tmp_path: Path) -> None:
    async def test(peers: Peers, _: Clock) -> None:
        assert peers.clock_warning() == ""
        peers.skewed("north", ClockSkew("The clocks differ.", offset_s=-7200))
        assert "that of north is 7,200 s behind it" in peers.clock_warning()
        await peers.seen("north")
        assert peers.clock_warning() == "", "it takes our requests, or we its"

    run(tmp_path, test)


def test_a_peer_that_fails_does_not_answer_and_then_is_down(tmp_path: Path) -> None:
    async def test(peers: Peers, clock: Clock) -> None:
        peer = peers.all()[0]
        assert peer.health == Health(word="", since=0)
        began = clock.now
        words = []
        for _ in range(DOWN_AFTER):
            await peers.record_failure(peer.id, PeerUnreachable("gone"))
            words.append(peer.health)
            clock.now += 60_000
        assert words == [Health(word="does not answer", since=began)] * 2 + [Health(word="down", since=began)]
        await peers.record_success(peer.id)
        assert peer.health == Health(word="", since=0)
        await peers.record_failure(peer.id, PeerUnreachable("gone again"))
        assert peer.health.since == clock.now

    run(tmp_path, test)


def test_what_was_put_off_while_the_clock_was_ahead_is_not_put_off_any_more(tmp_path: Path) -> None:
    async def test(peers: Peers, clock: Clock) -> None:
        clock.now += 4 * 3600 * SECOND
        for package in ("a", "b", "c"):
            await strike(peers, package)
        await peers.record_failure("north", PeerUnreachable("The clocks differ."))
        peer = peers.find("north")
        assert peer is not None
        assert peers.backing_off("north")
        assert not usable(peers, "x")
        assert peer.set_aside_until(clock.now) == peer.quarantined_until
        clock.now -= 4 * 3600 * SECOND
        assert not peers.backing_off("north")
        assert usable(peers, "x")
        assert usable(peers, "a")
        assert peers.quarantined_for("north") == {}
        assert peer.set_aside_until(clock.now) == 0

    run(tmp_path, test)


@pytest.mark.parametrize(("status", "code"), [(401, "peer_unknown"), (403, "permission_denied")])
def test_who_does_not_know_this_node_is_no_source_until_it_does(
    tmp_path: Path, status: int, code: str
) -> None:
    """It was put back to before the registration, or ended it while this node was away, or never completed it."""

    async def test(peers: Peers, clock: Clock) -> None:
        back: list[str] = []
        peers.on_up = back.append
        await strike(peers, "a")
        await peers.record_failure("north", PeerRefused("It refused.", status=status, code=code))
        await peers.record_failure("north", PeerUnreachable("Nobody answers."))
        assert not usable(peers, "b")
        assert peers.set_aside(["north"], "a") == [], "what it is called is not that it sent wrong data"
        worker = _peers(peers._store, clock)
        await worker.load()
        assert not usable(worker, "b")
        await peers.seen("north")
        assert usable(peers, "b")
        assert back == ["north"], "what it has is asked for now"

    run(tmp_path, test)
