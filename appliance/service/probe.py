"""A look at something that may hang: at most one at a time, at most every few seconds, never waited for too long."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from appliance.domain.errors import ApplianceError

GOOD_FOR_S = 10.0  #: a good answer holds for so long
BAD_FOR_S = 1.0  #: a bad one is looked at again soon
TIMEOUT_S = 4.0


class Probe:
    """Asks something whether it works."""

    def __init__(self, look: Callable[[], Awaitable[None]], *, silent: str) -> None:
        """Make a probe.

        Args:
            look: Returns if all is well, else raises an `ApplianceError` that says what is wrong.
            silent: The sentence for a look that does not return.
        """
        self._look = look
        self._silent = silent
        self._running: asyncio.Task[None] | None = None
        self._began = 0.0
        self._ended = 0.0
        self._reason = ""

    async def ask(self) -> str:
        """What is wrong, or "". A look that hangs is not begun a second time, and later askers do not wait for it."""
        if self._running is None:
            if time.monotonic() - self._ended < (BAD_FOR_S if self._reason else GOOD_FOR_S) and self._ended:
                return self._reason
            self._began = time.monotonic()
            self._running = asyncio.create_task(self._run())
        rest = self._began + TIMEOUT_S - time.monotonic()
        await asyncio.wait({self._running}, timeout=max(0.0, rest))
        return self._reason if self._running is None or self._running.done() else self._silent

    async def _run(self) -> None:
        try:
            await self._look()
            self._reason = ""
        except ApplianceError as exc:
            self._reason = exc.message
        finally:
            self._ended = time.monotonic()
            self._running = None
