"""Waiting for something to become true."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(
    predicate: Callable[[], T], timeout: float = 30.0, message: str | Callable[[], str] = "it did not happen"
) -> T:
    """Call `predicate` until it answers something true, and return that.

    An AssertionError of the predicate counts as "not yet"; the last one is shown when time is up.

    Raises:
        AssertionError: `timeout` seconds have passed.
    """
    deadline = time.monotonic() + timeout
    pause = 0.005
    while True:
        why = ""
        try:
            value = predicate()
        except AssertionError as exc:
            why = str(exc)
        else:
            if value:
                return value
        if time.monotonic() > deadline:
            text = message() if callable(message) else message
            raise AssertionError(f"after {timeout:g} s: {text}" + (f" ({why})" if why else ""))
        time.sleep(pause)
        pause = min(0.1, pause * 1.5)
