"""How fast a scrub may read: a bounded rate, and less or nothing while packages are received or sent."""

import threading
import time
from collections.abc import Callable

from .metrics import Metrics

BUSY_RATE = 4 * 1024 * 1024  #: bytes a second received or sent above which a process is busy
_WINDOW_S = 1.0
_STEP_S = 0.2


class Load:
    """Whether this process is busy with packages. For the event loop only."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._moved = sum(metrics.moved())
        self._at = clock()
        self._busy = False

    def busy(self) -> bool:
        """Whether many bytes came or went in the last second or so."""
        elapsed = self._clock() - self._at
        if elapsed >= _WINDOW_S:
            moved = sum(self._metrics.moved())
            self._busy = (moved - self._moved) / elapsed > BUSY_RATE
            self._moved, self._at = moved, self._clock()
        return self._busy


class Pace:
    """Holds back the thread that reads. The rate may be set from another one."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._rate = 0.0
        self._owed = 0.0

    def set(self, rate: float) -> None:
        """Read so many bytes a second from now on; 0: none."""
        with self._lock:
            self._rate = rate
            self._lock.notify_all()

    @property
    def stopped(self) -> bool:
        """Whether nothing may be read now."""
        return not self._rate

    def wait(self, count: int, check: Callable[[], None]) -> None:
        """Return when it is time to go on after `count` bytes; small counts are added up.

        Args:
            count: Bytes that were read.
            check: Called now and then; what it raises ends the wait.
        """
        self._owed += count
        while True:
            check()
            with self._lock:
                seconds = self._owed / self._rate if self._rate else _STEP_S
                if self._rate and seconds < 0.02:
                    return
                began = time.monotonic()
                self._lock.wait(min(seconds, _STEP_S))
                self._owed = max(0.0, self._owed - (time.monotonic() - began) * self._rate)
