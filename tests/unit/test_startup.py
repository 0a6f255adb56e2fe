"""What a start waits for, and what it calls it."""

import asyncio
import errno
import os
from collections.abc import Callable
from typing import Any, cast

import pytest

from appliance.bootstrap import startup as module
from appliance.bootstrap.startup import Startup
from appliance.domain.errors import StorageFull, StoreUnavailable, SyncFailed


class Waits:
    """Notes what the start waits for."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def waits(self, part: str, reason: str) -> None:
        self.parts.append(part)
        assert bool(reason) is bool(part)


def system_error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def play(step: Callable[[], Any]) -> list[str]:
    waits: Any = Waits()
    nothing = cast(Any, None)
    start = Startup(nothing, nothing, nothing, waits, serving=True, announce=nothing)
    assert asyncio.run(start._waited(step)) == "done"
    return cast(list[str], waits.parts)


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (StoreUnavailable("away"), "store"),
        (StorageFull("full"), "disk"),
        (SyncFailed("the disk did not keep it"), "disk"),
        (system_error(errno.ENOSPC), "disk"),
        (system_error(errno.EROFS), "disk"),
        (system_error(errno.EIO), "disk"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_away_is_called_by_its_name(
    monkeypatch: pytest.MonkeyPatch, error: Exception, part: str
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    left = [error]

    async def step() -> str:
        if left:
            raise left.pop()
        return "done"

    assert play(step) == [part, ""]


def test_what_waiting_does_not_help_is_raised() -> None:
    async def step() -> str:
        raise system_error(errno.EACCES)

    with pytest.raises(PermissionError):
        play(step)
