"""A job runner over the real SQLite store, with a clock that stands still, and a store that can be away."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from appliance.domain.errors import StoreUnavailable
from appliance.domain.job import Job
from appliance.domain.states import JobState
from appliance.jobs.runner import Runner
from appliance.store.opening import open_store
from appliance.store.ports import Store

START = 1_900_000_000_000
LEASE_S = 30.0


class Clock:
    """UTC milliseconds that stand still until they are moved."""

    def __init__(self) -> None:
        self.ms = START

    def __call__(self) -> int:
        return self.ms


class Flaky:
    """A store that can be away."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.down = False
        self.refused = 0
        self._asked = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._store, name)
        if name in {"changed", "feed_id", "export", "close"}:
            return real

        async def call(*args: Any, **kwargs: Any) -> Any:
            if self.down:
                self.refused += 1
                raise StoreUnavailable()
            self._asked += 1
            try:
                return await real(*args, **kwargs)
            finally:
                self._asked -= 1

        return call

    async def go_away(self) -> None:
        """Be down from now on, at a moment when no call is under way whose answer would come afterwards."""
        await eventually(lambda: self._asked == 0)
        self.down = True


class Desk:
    """A store, a runner over it, and what happened."""

    def __init__(self, store: Store, **options: Any) -> None:
        self.clock = Clock()
        self.flaky = Flaky(store)
        self.store = store
        self.ended: list[tuple[str, str]] = []
        arguments: dict[str, Any] = {
            "worker_id": "w1",
            "transfer_slots": 2,
            "hash_slots": 1,
            "default_slots": 2,
            "lease_s": LEASE_S,
            "now": self.clock,
            "jitter": lambda: 0.5,
            "poll_s": 0.02,
            "observe": lambda name, outcome, seconds: self.ended.append((name, outcome)),
            **options,
        }
        self.runner = Runner(self.flaky, **arguments)  # type: ignore[arg-type]

    async def enqueue(self, id: str, name: str, queue: str = "transfer", **fields: Any) -> bool:
        return await self.store.enqueue(
            Job(id=id, queue=queue, name=name, run_at=fields.pop("run_at", START), **fields)
        )

    async def job(self, id: str) -> Job:
        job = await self.store.get_job(id)
        assert job is not None
        return job

    async def reaches(self, id: str, state: JobState) -> Job:
        async def there() -> bool:
            return (await self.job(id)).state is state

        await eventually(there)
        return await self.job(id)


async def eventually(condition: Callable[[], Any], timeout: float = 10.0) -> None:
    end = asyncio.get_running_loop().time() + timeout
    while True:
        result = condition()
        if isinstance(result, Awaitable):
            result = await result
        if result:
            return
        assert asyncio.get_running_loop().time() < end, "it did not happen in time"
        await asyncio.sleep(0.005)


def run_desk(root: Path, test: Callable[[Desk], Awaitable[None]], **options: Any) -> None:
    """Run a test with a desk; its runner is stopped, and its store closed, afterwards."""

    async def opened() -> None:
        store = await open_store("", root)
        desk = Desk(store, **options)
        try:
            await test(desk)
        finally:
            await desk.runner.stop(5)
            await store.close()

    asyncio.run(opened())
