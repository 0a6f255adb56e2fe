"""Slows guessing down: after a few failures each further try waits twice as long."""

from collections.abc import Callable, Hashable

from appliance.domain.errors import TooManyAttempts

FREE = 5
CAP_S = 900
_FORGET_MS = 3_600_000
_MANY = 10_000
_NEVER = 2**62


class Throttle:
    """Counts failures by source."""

    def __init__(
        self, now: Callable[[], int], *, free: int = FREE, cap_s: int = CAP_S, forget_ms: int = _NEVER
    ) -> None:
        """Count.

        Args:
            now: UTC milliseconds.
            free: So many failures cost nothing.
            cap_s: The longest wait.
            forget_ms: After so long without a failure a source starts over.
        """
        self.now = now
        self._free = free
        self._cap_s = cap_s
        self._forget_ms = forget_ms
        self._failures: dict[Hashable, tuple[int, int]] = {}

    def check(self, source: Hashable) -> None:
        """Let a try pass.

        Raises:
            TooManyAttempts: It comes too early; `retry_after` in the details has the seconds.
        """
        count, at = self._known(source)
        if count < self._free:
            return
        wait_ms = min(self._cap_s, 2 ** min(count - self._free, 20)) * 1000 - (self.now() - at)
        if wait_ms > 0:
            seconds = -(-wait_ms // 1000)
            raise TooManyAttempts(f"Too many attempts failed; try again in {seconds} s.", retry_after=seconds)

    def failed(self, source: Hashable) -> bool:
        """A try failed; return whether it was the one after which the source has to wait."""
        now = self.now()
        if len(self._failures) >= _MANY:
            self._failures = {
                key: value for key, value in self._failures.items() if now - value[1] < _FORGET_MS
            }
        if len(self._failures) >= _MANY:  # a flood: the older half goes
            newest = sorted(self._failures.items(), key=lambda item: item[1][1])[-_MANY // 2 :]
            self._failures = dict(newest)
        count = self._known(source)[0] + 1
        self._failures[source] = (count, now)
        return count == self._free

    def _known(self, source: Hashable) -> tuple[int, int]:
        count, at = self._failures.get(source, (0, 0))
        if at > self.now():  # the clock was ahead: the wait begins now
            at = self.now()
            self._failures[source] = (count, at)
        return (count, at) if self.now() - at <= self._forget_ms else (0, 0)

    def succeeded(self, source: Hashable) -> None:
        """A try succeeded: start over."""
        self._failures.pop(source, None)
