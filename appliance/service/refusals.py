"""Refused sign-ins in the log: not each of a flood, but every account that has to wait."""

import logging
from collections.abc import Callable

from appliance.domain.event import EventType
from appliance.store.ports import Store

from .journal import SYSTEM, entry

log = logging.getLogger(__name__)

SHOWN_NAME = 64
EVERY_MS = 10_000  #: a refusal is an event at most so often; each is a log line


class Refusals:
    """Tells of sign-ins that were refused."""

    def __init__(self, store: Store, now: Callable[[], int]) -> None:
        self._store = store
        self._now = now
        self._told_at = 0

    async def tell(self, name: str, address: str, *, locked: bool = False) -> None:
        """A sign-in was refused.

        Args:
            name: Who it claimed to be.
            address: Where it came from.
            locked: Whether this was the one after which an account that exists has to wait.
        """
        log.warning(
            "a sign-in was refused",
            extra={"action": "sign_in_refused", "account": name[:SHOWN_NAME], "remote": address},
        )
        now, types = self._now(), []
        if now - self._told_at >= EVERY_MS:
            self._told_at = now
            types.append(EventType.SIGN_IN_REFUSED)
        if locked:
            types.append(EventType.SIGN_IN_LOCKED)
        if types:
            await self._store.batch(
                [
                    entry(type, at=now, actor=SYSTEM, subject=name[:SHOWN_NAME], address=address)
                    for type in types
                ]
            )
