"""Calls of an MDM server, a few at a time."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from appliance.domain.errors import ApplianceError


async def call_all(calls: Sequence[Callable[[], Awaitable[None]]], *, at_once: int) -> None:
    """Make calls, at most `at_once` at a time. After the first that fails no further one is begun.

    Those under way then end by themselves, so that what they did is written down.

    Raises:
        ApplianceError: What the first that failed raised.
    """
    waiting = deque(calls)
    faults: list[ApplianceError] = []

    async def drain() -> None:
        while waiting and not faults:
            try:
                await waiting.popleft()()
            except ApplianceError as exc:
                faults.append(exc)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(at_once, len(waiting))):
            group.create_task(drain())
    if faults:
        raise faults[0]
