"""Remembers the nonces of signed requests: each is accepted once.

Memory answers first. Requests that change something are remembered in the store too, so that a second process, or
this one after a restart, refuses them as well; a replayed read only gives what the first one gave.
"""

from collections.abc import Callable

from appliance.domain.errors import DuplicateKey, RequestReplayed
from appliance.peering.signing import AHEAD_S, LIFE_S, Signed
from appliance.store.ports import Store

_READING = {"GET", "HEAD"}
_KEPT_MS = (LIFE_S + AHEAD_S + 10) * 1000
_SWEEP_AT = 10_000


class Nonces:
    """The nonces of the last minutes."""

    def __init__(self, store: Store, now: Callable[[], int]) -> None:
        self._store = store
        self._now = now
        self._seen: dict[str, int] = {}

    async def accept(self, signed: Signed, method: str) -> None:
        """Take a nonce.

        Raises:
            RequestReplayed: It was taken before.
            StoreUnavailable: It cannot be known; the request changes something and is refused.
        """
        key = f"{signed.node}:{signed.nonce}"
        now = self._now()
        if self._seen.get(key, 0) > now:
            raise RequestReplayed(node=signed.node)
        if len(self._seen) >= _SWEEP_AT:
            self._seen = {name: until for name, until in self._seen.items() if until > now}
        self._seen[key] = now + _KEPT_MS
        if method not in _READING:
            try:
                await self._store.insert("nonces", {"_id": key, "expires_at": now + _KEPT_MS})
            except DuplicateKey:
                raise RequestReplayed(node=signed.node) from None
