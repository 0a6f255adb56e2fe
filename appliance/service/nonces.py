"""Remembers the nonces of signed requests: each is accepted once.

Memory answers first. Requests that change something are remembered in the store too, so that a second process, or
this one after a restart, refuses them as well. A read is remembered in memory alone: within its minute of life, who
overheard it could repeat it once more after a restart and gain nothing over having overheard the answer. To
refuse all reads signed before the start would refuse peers whose clocks are a little behind ours.
"""

from collections.abc import Callable

from appliance.domain.errors import DuplicateKey, RequestReplayed
from appliance.peering.signing import AHEAD_S, LIFE_S, Signed
from appliance.store.ports import Store

_READING = {"GET", "HEAD"}
_KEPT_MS = (LIFE_S + AHEAD_S + 10) * 1000


class Nonces:
    """The nonces of the last minutes."""

    def __init__(self, store: Store, now: Callable[[], int]) -> None:
        self._store = store
        self._now = now
        # Two sets in turn: when the newer one is as old as a nonce is kept, the older one is forgotten whole.
        self._newer: set[str] = set()
        self._older: set[str] = set()
        self._turned_at = now()

    async def accept(self, signed: Signed, method: str) -> None:
        """Take a nonce.

        Raises:
            RequestReplayed: It was taken before.
            StoreUnavailable: It cannot be known; the request changes something and is refused.
        """
        key = f"{signed.node}:{signed.nonce}"
        now = self._now()
        if now - self._turned_at >= _KEPT_MS:
            self._older = self._newer if now - self._turned_at < 2 * _KEPT_MS else set()
            self._newer = set()
            self._turned_at = now
        if key in self._newer or key in self._older:
            raise RequestReplayed(node=signed.node)
        self._newer.add(key)
        if method not in _READING:
            try:
                await self._store.insert("nonces", {"_id": key, "expires_at": now + _KEPT_MS})
            except DuplicateKey:
                raise RequestReplayed(node=signed.node) from None
