"""Peers: who is registered, how they are doing, and whom to leave alone for a while.

Kept in memory beside the store, so that a signature can be checked while the database is down. Joining and leaving
are in `registration`.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from appliance.domain.errors import (
    OUTAGES,
    ClockSkew,
    PeerError,
    PeerMisbehaved,
    PeerNotFound,
    StaleRevision,
)
from appliance.domain.event import EventType
from appliance.domain.states import PeerState
from appliance.peering.address import PeerAddress
from appliance.peering.client import PeerClient
from appliance.peering.identity import Identity
from appliance.store.ports import Doc, Insert, Operation, Remove, Replace, Store

from .journal import SYSTEM, entry

log = logging.getLogger(__name__)

BASE_S = 2.0
CAP_S = 300.0
DOWN_AFTER = 3  #: failures in a row
STRIKES = 3  #: then a peer is no source for a while
QUARANTINE_MS = 15 * 60 * 1000
_FORGIVE_MS = 3600 * 1000  #: strikes older than this do not count for quarantine
_SAVE_EVERY_MS = 60_000
_FOLLOW_S = 0.5
_MANY = 10_000
_TRIES = 5


@dataclass(slots=True, kw_only=True)
class Peer:
    """A registration, and how the peer is doing."""

    id: str
    key: bytes
    url: str
    name: str
    tls_fingerprint: str = ""
    state: PeerState = PeerState.PENDING
    joined_at: int = 0
    failures: int = 0  #: in a row
    retry_at: int = 0  #: leave it alone until then, UTC milliseconds
    last_seen: int = 0  #: last sign of life
    last_error: str = ""
    down: bool = False
    strikes: int = 0  #: ever
    recent_strikes: list[int] = field(default_factory=list)  #: times of the last ones
    last_strike: str = ""
    quarantined_until: int = 0
    clock_offset_ms: int = 0
    saved_at: int = 0
    rev: int = 0  #: of the document in the store, as it was last read or written here


class Peers:
    """The registrations of this node."""

    def __init__(
        self,
        *,
        store: Store,
        identity: Identity,
        ca_file: str,
        now: Callable[[], int],
        jitter: Callable[[], float],
    ) -> None:
        self._store = store
        self._identity = identity
        self._ca_file = ca_file
        self._now = now
        self._jitter = jitter
        self._peers: dict[str, Peer] = {}
        self._clients: dict[str, PeerClient] = {}
        self.on_up: Callable[[str], None] = lambda _: None  #: called when a peer that was down shows life
        self.on_refusal: Callable[[str], None] = lambda _: None  #: counts refusals by reason

    async def load(self) -> None:
        """Read all registrations."""
        known = set(self._peers)
        docs = await self._store.find("peers", limit=_MANY)
        for doc in docs:
            old = self._peers.get(doc["_id"])
            if old is None:
                self._peers[doc["_id"]] = _from_doc(doc)
            elif doc["_rev"] > old.rev:
                _take_over(old, doc)
        for id in known - {doc["_id"] for doc in docs}:
            self._forget(id)

    async def follow(self) -> None:
        """Take over what other processes of this node write: a peer that joined, or was removed. Never returns."""
        seen = -1
        while True:
            await asyncio.sleep(_FOLLOW_S)
            try:
                seen = await self._store.changed("peers", seen, timeout=3600)
                await self.load()
            except OUTAGES:
                continue

    # Who

    def all(self) -> list[Peer]:
        """Every registration."""
        return sorted(self._peers.values(), key=lambda peer: peer.name)

    def active_ids(self) -> list[str]:
        """Ids of peers whose registration is complete."""
        return [peer.id for peer in self._peers.values() if peer.state is PeerState.ACTIVE]

    def is_active(self, id: str) -> bool:
        """Whether a peer's registration is complete."""
        peer = self._peers.get(id)
        return peer is not None and peer.state is PeerState.ACTIVE

    def get(self, id: str) -> Peer:
        """One registration.

        Raises:
            PeerNotFound: There is none.
        """
        try:
            return self._peers[id]
        except KeyError:
            raise PeerNotFound(f"There is no peer {id} registered here.") from None

    def find(self, id: str) -> Peer | None:
        """One registration, or None."""
        return self._peers.get(id)

    def resolve(self, text: str) -> Peer:
        """A registration by id, beginning of the id, or name.

        Raises:
            PeerNotFound: None fits, or several do.
        """
        fits = [peer for peer in self._peers.values() if text in {peer.id, peer.name}]
        fits = fits or [peer for peer in self._peers.values() if len(text) >= 6 and peer.id.startswith(text)]
        if len(fits) != 1:
            raise PeerNotFound(f'{"Several peers fit" if fits else "There is no peer"} "{text}".')
        return fits[0]

    def key_for(self, id: str) -> bytes | None:
        """The public key of a registered node, also while the registration is being made."""
        peer = self._peers.get(id)
        return peer.key if peer else None

    def address(self, id: str) -> PeerAddress:
        """Where to call a peer."""
        peer = self.get(id)
        return PeerAddress(
            node=peer.id, url=peer.url, tls_fingerprint=peer.tls_fingerprint, ca_file=self._ca_file
        )

    def client(self, id: str) -> PeerClient:
        """A client for a peer; its methods block."""
        address = self.address(id)
        client = self._clients.get(id)
        if client is None or client.address != address:
            if client is not None:
                client.close()
            client = self._clients[id] = PeerClient(self._identity, address, now=self._now)
        return client

    def usable_sources(self, ids: Iterable[str]) -> list[str]:
        """Those of the nodes that are registered, active, and not set aside for misbehaviour."""
        now = self._now()
        return [
            id
            for id in ids
            if (peer := self._peers.get(id))
            and peer.state is PeerState.ACTIVE
            and peer.quarantined_until <= now
        ]

    # How they are doing

    def backing_off(self, id: str) -> bool:
        """Whether a peer failed lately and is left alone."""
        peer = self._peers.get(id)
        return peer is None or peer.retry_at > self._now()

    def is_down(self, id: str) -> bool:
        """Whether a peer failed several times in a row."""
        peer = self._peers.get(id)
        return peer is not None and peer.down

    async def record_success(self, id: str) -> None:
        """A call to a peer succeeded."""
        await self.seen(id)

    async def seen(self, id: str) -> None:
        """A peer showed life: it answered, or its signed request came in."""
        peer = self._peers.get(id)
        if peer is None:
            return
        now = self._now()
        troubled = bool(peer.failures or peer.retry_at)
        was_down, peer.down = peer.down, False
        peer.failures, peer.retry_at, peer.last_seen, peer.last_error = 0, 0, now, ""
        events = []
        if was_down:
            events.append(entry(EventType.PEER_UP, at=now, actor=SYSTEM, subject=id, name=peer.name))
        if troubled or now - peer.saved_at > _SAVE_EVERY_MS:
            await self._save(peer, events)
        if was_down:
            self.on_up(id)

    async def record_failure(self, id: str, error: PeerError) -> None:
        """A call to a peer failed: wait longer each time before the next. Breaking the protocol is a strike too."""
        peer = self._peers.get(id)
        if peer is None:
            return
        now = self._now()
        peer.failures += 1
        wait = min(CAP_S, BASE_S * 2.0 ** min(peer.failures - 1, 20)) * (0.75 + 0.5 * self._jitter())
        after = error.details.get("retry_after")
        peer.retry_at = now + round(1000 * (float(after) if isinstance(after, int | float) else wait))
        peer.last_error = error.message
        events = []
        if peer.failures >= DOWN_AFTER and not peer.down:
            peer.down = True
            events.append(
                entry(
                    EventType.PEER_DOWN,
                    at=now,
                    actor=SYSTEM,
                    subject=id,
                    name=peer.name,
                    reason=error.message,
                )
            )
        await self._save(peer, events)
        if isinstance(error, PeerMisbehaved):
            await self.strike(id, error.message)

    async def strike(self, id: str, reason: str) -> None:
        """A peer served what it should not: count it, show it, and set it aside as a source after a few."""
        peer = self._peers.get(id)
        if peer is None:
            return
        now = self._now()
        peer.strikes += 1
        peer.last_strike = reason
        recent = [at for at in peer.recent_strikes if at > now - _FORGIVE_MS]
        peer.recent_strikes = [*recent[-STRIKES:], now]
        if len(peer.recent_strikes) >= STRIKES:
            peer.quarantined_until = now + QUARANTINE_MS
            peer.recent_strikes = []
        event = entry(
            EventType.PEER_STRUCK,
            at=now,
            actor=SYSTEM,
            subject=id,
            name=peer.name,
            reason=reason,
            strikes=peer.strikes,
            quarantined_until=peer.quarantined_until,
        )
        await self._save(peer, [event])

    def skewed(self, id: str, error: ClockSkew) -> None:
        """A peer's request was signed by a clock that differs from ours."""
        peer = self._peers.get(id)
        offset = error.details.get("offset_s")
        if peer is not None and isinstance(offset, int):
            peer.clock_offset_ms = offset * 1000
            peer.last_error = error.message

    # For `registration`

    async def put(self, peer: Peer, more: Sequence[Operation]) -> None:
        """Write a registration and what belongs to it in one operation.

        Raises:
            StaleRevision: One of the further operations did not hold; nothing was written.
            StoreUnavailable: It is not known whether it was written.
        """
        stored = await self._store.batch([Replace("peers", _to_doc(peer)), *more])
        peer.rev = stored[0]["_rev"] if stored[0] else 0
        self._peers[peer.id] = peer

    async def drop(self, id: str, events: Sequence[Insert]) -> None:
        """Delete a registration, if it is there, with how far its feed was read."""
        if id not in self._peers:
            return
        await self._store.batch([Remove("peers", id), Remove("cursors", id), *events])
        self._forget(id)

    async def describe(self, id: str, *, name: str, url: str, tls_fingerprint: str) -> None:
        """Take over what a peer's own newest record says of it."""
        peer = self._peers.get(id)
        if peer and (peer.name, peer.url, peer.tls_fingerprint) != (name, url, tls_fingerprint):
            peer.name, peer.url, peer.tls_fingerprint = name, url, tls_fingerprint
            await self._save(peer, [])

    def _forget(self, id: str) -> None:
        self._peers.pop(id, None)
        client = self._clients.pop(id, None)
        if client is not None:
            client.close()

    async def _save(self, peer: Peer, events: Sequence[Insert]) -> None:
        """Write health, if the registration still stands; a store that is down does not stop the work."""
        peer.saved_at = self._now()
        try:
            for _ in range(_TRIES):
                if self._peers.get(peer.id) is not peer:
                    return  # removed meanwhile: to write it would bring it back
                try:
                    stored = await self._store.batch([Replace("peers", _to_doc(peer), peer.rev), *events])
                except StaleRevision:
                    doc = await self._store.get("peers", peer.id)
                    if doc is None:
                        self._forget(peer.id)
                        return
                    _take_over_registration(peer, doc)
                else:
                    peer.rev = stored[0]["_rev"] if stored[0] else peer.rev
                    return
        except OUTAGES as exc:
            log.debug(
                "a peer's health was not written", extra={"action": "health_unwritten", "reason": exc.message}
            )


_REGISTRATION = ("key", "url", "name", "tls_fingerprint", "joined_at")
_HEALTH = (
    "failures",
    "retry_at",
    "last_seen",
    "last_error",
    "down",
    "strikes",
    "recent_strikes",
    "last_strike",
    "quarantined_until",
)


def _to_doc(peer: Peer) -> Doc:
    doc: dict[str, Any] = {name: getattr(peer, name) for name in (*_REGISTRATION, *_HEALTH)}
    return {"_id": peer.id, "state": str(peer.state), **doc, "recent_strikes": list(peer.recent_strikes)}


def _from_doc(doc: Doc) -> Peer:
    fields = {name: doc[name] for name in (*_REGISTRATION, *_HEALTH) if name in doc}
    return Peer(id=doc["_id"], state=PeerState(doc["state"]), rev=doc["_rev"], **fields)


def _take_over_registration(peer: Peer, doc: Doc) -> None:
    """What another process wrote of the registration; how the peer is doing is known here as well as there."""
    for name in _REGISTRATION:
        setattr(peer, name, doc[name])
    peer.state, peer.rev = PeerState(doc["state"]), doc["_rev"]
    peer.strikes = max(peer.strikes, doc["strikes"])
    peer.quarantined_until = max(peer.quarantined_until, doc["quarantined_until"])


def _take_over(peer: Peer, doc: Doc) -> None:
    _take_over_registration(peer, doc)
    for name in _HEALTH:
        setattr(peer, name, doc[name])
