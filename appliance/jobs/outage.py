"""One line in the log when the store goes away, one when it is back, and how long to wait in between."""

import logging
import time
from collections.abc import Callable

from appliance.domain.errors import ApplianceError

log = logging.getLogger(__name__)

SHORTEST_S = 0.2
LONGEST_S = 3.0


class Outage:
    """Whether the store answers, as far as the runner has seen."""

    def __init__(self, jitter: Callable[[], float]) -> None:
        self._jitter = jitter
        self._since: float | None = None

    def began(self, error: ApplianceError) -> float:
        """Note a failure; return how many seconds to wait before the next try.

        Half as long as the outage has lasted: several lanes ask, so the count of failures says little.
        """
        if self._since is None:
            self._since = time.monotonic()
            log.warning(
                "The store does not answer; jobs wait until it does",
                extra={"action": "store_lost", "error": error.message},
            )
        lasted = time.monotonic() - self._since
        return min(LONGEST_S, max(SHORTEST_S, lasted / 2)) * (0.75 + 0.5 * self._jitter())

    def over(self) -> None:
        """Note that the store answered."""
        if self._since is not None:
            log.info(
                "The store answers again",
                extra={"action": "store_back", "seconds": round(time.monotonic() - self._since, 1)},
            )
            self._since = None
