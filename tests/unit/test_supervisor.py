"""Background tasks that fail."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from appliance.domain.errors import StorageFull, StoreUnavailable
from appliance.jobs import supervisor as module
from appliance.jobs.supervisor import Failing, Supervisor


class World:
    """A supervisor, with a clock that stands still."""

    def __init__(self) -> None:
        self.time = 1_000_000
        self.counted: Counter[str] = Counter()
        self.told: list[Failing] = []
        self.supervisor = Supervisor(
            now=lambda: self.time, count=lambda task: self.counted.update([task]), first_pause_s=0.001
        )
        self.supervisor.on_new_kind = self._tell

    async def _tell(self, failing: Failing) -> None:
        self.told.append(failing)
        raise StoreUnavailable()  # nothing that tells of a failure makes another one


def play(script: Callable[[World], Awaitable[None]]) -> World:
    world = World()
    asyncio.run(script(world))  # type: ignore[arg-type]
    return world


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.004)


def test_one_that_fails_is_restarted_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    runs = 0

    async def script(world: World) -> None:
        done = asyncio.Event()

        async def work() -> None:
            nonlocal runs
            runs += 1
            if runs == 6:
                done.set()
                await asyncio.sleep(60)
            raise KeyError("odd")

        with caplog.at_level(logging.INFO):
            task = world.supervisor.start("work", work)
            await asyncio.wait_for(done.wait(), 5)
        [failing] = world.supervisor.failing()
        assert (failing.task, failing.failures, failing.persistent) == ("work", 5, True)
        assert "KeyError" in failing.error
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()

    world = play(script)
    assert world.counted == {"work": 5}
    assert [record.getMessage() for record in caplog.records if record.exc_info] == [
        "a background task failed and is retried; the same failure is not logged again"
    ]
    assert [each.task for each in world.told] == ["work"]


def test_another_kind_of_failure_is_logged_too_and_known_errors_have_no_trace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors: list[Exception] = [StorageFull(), StorageFull(), ValueError("x"), StorageFull(), ValueError("y")]

    async def script(world: World) -> None:
        async def work() -> None:
            if errors:
                raise errors.pop(0)

        with caplog.at_level(logging.INFO):
            await asyncio.wait_for(world.supervisor.start("work", work), 5)

    world = play(script)
    assert world.counted == {"work": 5}
    assert [bool(record.exc_info) for record in caplog.records] == [False, True]


def test_one_that_ran_well_for_a_while_works_again() -> None:
    async def script(world: World) -> None:
        steps = iter(["fail", "steady", "fail"])

        async def work() -> None:
            match next(steps, "end"):
                case "end":
                    return
                case "steady":
                    world.time += module.STEADY_MS + 1
            raise ValueError

        await asyncio.wait_for(world.supervisor.start("work", work), 5)
        [failing] = world.supervisor.failing()
        assert failing.failures == 2, "the first failure after it worked for a while counts from 1"
        world.time += module.STEADY_MS + 61_000
        assert world.supervisor.failing() == []

    play(script)


def test_it_ends_when_its_owner_closes() -> None:
    async def script(world: World) -> None:
        closing = asyncio.Event()
        world.supervisor._first_pause_s = 60

        async def work() -> None:
            raise ValueError

        task = world.supervisor.start("work", work, closing=closing)
        await asyncio.sleep(0.01)
        closing.set()
        await asyncio.wait_for(task, 5)

    play(script)


def test_a_cancellation_that_is_not_its_own_is_a_failure() -> None:
    async def script(world: World) -> None:
        runs = 0

        async def work() -> None:
            nonlocal runs
            runs += 1
            if runs == 1:
                other = asyncio.create_task(asyncio.sleep(60))
                other.cancel()
                await other

        await asyncio.wait_for(world.supervisor.start("work", work), 5)
        assert runs == 2

    assert play(script).counted == {"work": 1}


def test_a_step_that_fails_ends_nobody() -> None:
    async def script(world: World) -> None:
        broken = True

        async def step() -> None:
            if broken:
                raise TypeError("odd record")

        once = world.supervisor.once
        assert not await once("settle", step, step="a")
        assert not await once("settle", step, step="b")
        assert len(world.supervisor.failing()) == 2
        broken = False
        assert await once("settle", step, step="a")
        assert [failing.failures for failing in world.supervisor.failing()] == [1]
        world.time += module.FORGET_MS + 1
        assert world.supervisor.failing() == [], "nobody has tried it for long"

        async def outage() -> None:
            raise StoreUnavailable()

        with pytest.raises(StoreUnavailable):
            await once("settle", outage, passing=(StoreUnavailable,))
        task = asyncio.create_task(once("settle", lambda: asyncio.sleep(60)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert play(script).counted == {"settle": 2}


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHOWN", 3)

    async def script(world: World) -> None:
        async def step() -> None:
            raise ValueError

        for number in range(10):
            await world.supervisor.once("settle", step, step=str(number))
        assert len(world.supervisor.failing()) == 3

    assert play(script).counted == {"settle": 10}
