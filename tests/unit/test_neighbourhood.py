"""What nodes say of themselves, as it is heard by others."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from appliance.domain.errors import PeerUnreachable, WireInvalid
from appliance.jobs.supervisor import Supervisor
from appliance.peering.wire import Status, parse
from appliance.service.neighbourhood import FRESH_MS, OFTEN_MS, SELDOM_MS, Moving, Neighbourhood

US, NEAR, FAR = "a" * 52, "b" * 52, "c" * 52
PACKAGE, SHA256 = "p" * 32, "2" * 64


def told(
    node: str, done: int = 0, *, age_ms: int = 0, peers: dict[str, bool] | None = None
) -> dict[str, Any]:
    moving = [{"package": PACKAGE, "sha256": SHA256, "done": done, "rate": 2.5, "sources": {US: 2.5}}]
    return {"node": node, "age_ms": age_ms, "peers": peers or {}, "moving": moving if done else []}


class Fakes:
    """One registered peer that answers what the test says, and a clock."""

    def __init__(self) -> None:
        self.time = 1_000_000
        self.answers: list[Any] = []
        self.asked: list[int] = []

    def active_ids(self) -> list[str]:
        return [NEAR]

    def is_active(self, id: str) -> bool:
        return id == NEAR

    def backing_off(self, id: str) -> bool:
        return False

    def client(self, id: str) -> "Fakes":
        return self

    def status(self, hops: int) -> Status:
        self.asked.append(hops)
        if not self.answers:
            raise PeerUnreachable("It is away.")
        return parse(Status, {"sights": self.answers})


Script = Callable[[Neighbourhood, Fakes], Awaitable[None]]


def run(script: Script) -> None:
    fakes: Any = Fakes()
    with ThreadPoolExecutor(1) as calls:
        around = Neighbourhood(
            peers=fakes, transfers=fakes, node_id=US, calls=calls, now=lambda: fakes.time,
            supervisor=Supervisor(now=lambda: fakes.time),
        )  # fmt: skip
        asyncio.run(script(around, fakes))  # type: ignore[arg-type]


async def look(around: Neighbourhood) -> None:
    around.look()
    if around._task is not None:
        await around._task


def moving_of(around: Neighbourhood, node: str, package: str, sha256: str) -> Moving | None:
    sight = around.sight(node)
    return sight.of(package, sha256) if sight is not None else None


def test_progress_is_heard_and_forgotten() -> None:
    async def script(around: Neighbourhood, fakes: Fakes) -> None:
        fakes.answers = [told(NEAR, 700)]
        await look(around)
        moving = moving_of(around, NEAR, PACKAGE, SHA256)
        assert moving is not None
        assert (moving.done, moving.rate, moving.sources) == (700, 2.5, {US: 2.5})
        assert moving_of(around, NEAR, PACKAGE, "3" * 64) is None
        assert around.version == 1
        fakes.time += FRESH_MS + 1
        assert moving_of(around, NEAR, PACKAGE, SHA256) is None
        assert around.sights() == []

    run(script)


def test_nobody_is_asked_more_often_than_needed() -> None:
    async def script(around: Neighbourhood, fakes: Fakes) -> None:
        fakes.answers = [told(NEAR)]
        await look(around)
        fakes.time += OFTEN_MS
        await look(around)
        assert fakes.asked == [1]
        fakes.time += SELDOM_MS
        fakes.answers = [told(NEAR, 1)]
        await look(around)
        fakes.time += OFTEN_MS
        await look(around)
        assert fakes.asked == [1, 1, 1], "something moves: oftener"
        assert around.version == 2, "the same twice is no news"

    run(script)


def test_of_itself_a_node_knows_best() -> None:
    async def script(around: Neighbourhood, fakes: Fakes) -> None:
        fakes.answers = [told(NEAR, 700), told(NEAR, 1), told(FAR, 5, age_ms=100), told(FAR, 3, age_ms=900)]
        fakes.answers += [told(US, 9)]
        await look(around)
        near, far = moving_of(around, NEAR, PACKAGE, SHA256), moving_of(around, FAR, PACKAGE, SHA256)
        assert far is not None
        assert far.done == 5, "what is newer counts"
        assert near is not None
        assert moving_of(around, US, PACKAGE, SHA256) is None, "nobody tells us of ourselves"

    run(script)


def test_a_peer_that_is_away_does_no_harm() -> None:
    async def script(around: Neighbourhood, fakes: Fakes) -> None:
        await look(around)
        assert fakes.asked == [1]
        assert around.sights() == []

    run(script)


@pytest.mark.parametrize(
    "wrong",
    [
        {**told(NEAR), "age_ms": -1},
        {**told(NEAR), "node": "<b>"},
        {**told(NEAR), "peers": {"x": True}},
        {**told(NEAR), "moving": [{**told(NEAR, 1)["moving"][0], "rate": float("nan")}]},
        {**told(NEAR), "moving": [{**told(NEAR, 1)["moving"][0], "done": -1}]},
    ],
)
def test_what_does_not_have_the_shape_is_refused(wrong: Any) -> None:
    with pytest.raises(WireInvalid):
        parse(Status, {"sights": [wrong]})
