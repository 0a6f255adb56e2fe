"""A look at what may hang."""

import asyncio

import pytest

from appliance.domain.errors import StorageFull
from appliance.service.probe import Probe


def test_a_good_answer_holds_a_while_and_a_bad_one_is_looked_at_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[str] = []
    ill = [True]

    async def look() -> None:
        looks.append("look")
        if ill[0]:
            raise StorageFull("The disk is full.")

    async def test() -> None:
        probe = Probe(look, silent="It hangs.")
        assert [await probe.ask(), await probe.ask()] == ["The disk is full."] * 2
        assert len(looks) == 1
        monkeypatch.setattr("appliance.service.probe.BAD_FOR_S", 0.0)
        ill[0] = False
        assert await asyncio.gather(*(probe.ask() for _ in range(5))) == [""] * 5
        assert await probe.ask() == ""
        assert len(looks) == 2

    asyncio.run(test())


def test_a_look_that_hangs_is_red_and_not_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.service.probe.TIMEOUT_S", 0.05)
    looks: list[str] = []
    release = asyncio.Event()

    async def look() -> None:
        looks.append("look")
        await release.wait()

    async def test() -> None:
        probe = Probe(look, silent="It hangs.")
        for _ in range(5):
            assert await asyncio.wait_for(probe.ask(), 1) == "It hangs."
        assert len(looks) == 1
        release.set()
        await asyncio.sleep(0)
        assert await probe.ask() == ""

    asyncio.run(test())
