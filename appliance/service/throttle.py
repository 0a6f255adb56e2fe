"""Slows guessing down: after a few failures each further try waits twice as long."""

from collections.abc import Callable, Hashable

from appliance.domain.errors import TooManyAttempts

FREE = 5
CAP_S = 900
_FORGET_MS = 3_600_000
_MANY = 10_000


class Throttle:
    """Counts failures by source."""

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._failures: dict[Hashable, tuple[int, int]] = {}

    def check(self, source: Hashable) -> None:
        """Let a try pass.

        Raises:
            TooManyAttempts: It comes too early; `retry_after` in the details has the seconds.
        """
        count, at = self._failures.get(source, (0, 0))
        if count < FREE:
            return
        wait_ms = min(CAP_S, 2 ** min(count - FREE, 20)) * 1000 - (self._now() - at)
        if wait_ms > 0:
            seconds = -(-wait_ms // 1000)
            raise TooManyAttempts(f"Too many attempts failed; try again in {seconds} s.", retry_after=seconds)

    def failed(self, source: Hashable) -> bool:
        """A try failed; return whether it was the one after which the source has to wait."""
        now = self._now()
        if len(self._failures) >= _MANY:
            self._failures = {
                key: value for key, value in self._failures.items() if now - value[1] < _FORGET_MS
            }
        if len(self._failures) >= _MANY:  # a flood: the older half goes
            newest = sorted(self._failures.items(), key=lambda item: item[1][1])[-_MANY // 2 :]
            self._failures = dict(newest)
        count = self._failures.get(source, (0, 0))[0] + 1
        self._failures[source] = (count, now)
        return count == FREE

    def succeeded(self, source: Hashable) -> None:
        """A try succeeded: start over."""
        self._failures.pop(source, None)
