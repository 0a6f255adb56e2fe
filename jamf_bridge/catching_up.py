"""Waits, after a start, until this node has read what its peers know.

A node that was off for a while, or was restored from a backup, knows old records at first. What an MDM has would look
newer than they are, be taken in, and beat what the network has had since.
"""

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

LONGEST_S = 60.0  #: then it goes on without: a peer that answers slowly must not stop the bridge
LOOK_S = 0.1


class CatchingUp:
    """Says once when peers were read; from then on it waits for nothing."""

    def __init__(self, reading: Callable[[], bool]) -> None:
        """Make it; `reading` says whether a peer's feed is being read."""
        self._reading = reading
        self._done = False

    async def wait(self) -> None:
        """Return when the peers were read once, or did not answer for a minute."""
        until = asyncio.get_running_loop().time() + LONGEST_S
        while not self._done and self._reading():
            if asyncio.get_running_loop().time() >= until:
                log.warning("peers could not be read in time", extra={"action": "mdm_catching_up"})
                break
            await asyncio.sleep(LOOK_S)
        self._done = True
