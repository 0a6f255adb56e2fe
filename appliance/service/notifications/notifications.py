"""Everything of notifications, for the doors and for the start."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from appliance.domain.destination import Destination

from .deliveries import Attempt, Deliveries
from .destinations import Destinations
from .outbox import Outbox
from .sending import Sending


@dataclass(frozen=True, slots=True, kw_only=True)
class Notifications:
    """The parts of notifications."""

    destinations: Destinations
    deliveries: Deliveries
    outbox: Outbox
    sending: Sending
    threads: Executor  #: for tests of destinations, which somebody waits for

    async def try_out(self, id: str) -> Attempt:
        """Send a test event to a destination now. A success clears its back-off and resumes it.

        Raises:
            DestinationUnknown: There is none.
        """
        destination = await self.destinations.get(id)
        loop = asyncio.get_running_loop()
        attempt = await loop.run_in_executor(self.threads, self.sending.try_out, destination)
        if attempt.receipt is not None:
            await self.destinations.succeeded(id)
            await self.deliveries.hasten(id)
        return attempt

    async def change(
        self, id: str, given: Mapping[str, Any], *, actor: str, expect: int | None = None
    ) -> Destination:
        """Change a destination, as `Destinations.change`; one that is turned on is sent to at once."""
        changed = await self.destinations.change(id, given, actor=actor, expect=expect)
        if given.get("enabled"):
            await self.deliveries.hasten(id)
        return changed
