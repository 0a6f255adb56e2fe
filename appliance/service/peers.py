"""Peers: who is registered, how they are doing, and whom to leave alone for a while.

Kept in memory beside the store, so that a signature can be checked while the database is down. Joining and leaving
are in `registration`.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from appliance.domain.errors import (
    OUTAGES,
    ClockSkew,
    PeerError,
    PeerMisbehaved,
    PeerNotFound,
    PeerUnknown,
    PermissionDenied,
    StaleRevision,
)
from appliance.domain.event import EventType
from appliance.domain.holding import SetAside
from appliance.domain.moment import too_early
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
STRIKES = 3  #: of one package; then the peer is no source of that package for a while
PACKAGES = 3  #: of which a peer is no source any more; then it is no source at all for a while
QUARANTINE_MS = 15 * 60 * 1000  #: the longest while
AGREED_MS = 5 * 60 * 1000  #: a sign of life says for so long that our clock is right
#: what a peer answers that does not take this node for a registered one, or not yet, or not any more
NOT_REGISTERED = frozenset({PeerUnknown.code, PermissionDenied.code})
CLOCK_MS = 15_000  #: a clock that is off by more is told of; from 30 s on requests are refused
_FORGIVE_MS = 3600 * 1000  #: after so long without a strike all is forgotten
_LONGEST_WAIT_MS = 3600 * 1000  #: a busy peer may ask for an hour
_REMEMBERED = 500  #: packages whose strikes are kept for each peer
_SAVE_EVERY_MS = 60_000
_FOLLOW_S = 0.5
_MANY = 10_000
_TRIES = 5


@dataclass(slots=True, kw_only=True)
class Strikes:
    """What a peer served wrong of one package."""

    count: int = 0
    at: int = 0  #: of the last one, UTC milliseconds
    until: int = 0  #: it is not asked for the package before
    reason: str = ""  #: of the last one

    def ends(self, now: int) -> int:
        """Until when it is not asked for the package, UTC milliseconds; 0: it is asked."""
        return self.until if too_early(self.until, now, QUARANTINE_MS) else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether calls to a peer succeed."""

    word: str  #: "" if they do; "does not answer", or "down" after several failures in a row
    since: int  #: of the first failure, UTC milliseconds; 0 if there is none or it is not known


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
    failing_since: int = 0  #: when the first of these failures was, UTC milliseconds
    down: bool = False
    disowned: bool = (
        False  #: it says that this node is not registered there: it was restored, or one side ended it alone
    )
    strikes: int = 0  #: ever
    packages: dict[str, Strikes] = field(default_factory=dict)  #: by package id; "" for what is of no package
    last_strike: str = ""
    quarantined_until: int = 0  #: it is no source before, UTC milliseconds
    quarantines: int = 0  #: in a row: each is twice as long as the one before
    clock_offset_ms: int = 0  #: how far its clock is ahead of ours
    clock_told: bool = False  #: an event says that the clocks differ
    notice: str = ""  #: what to know about the registration: how the stages of both nodes differ
    saved_at: int = 0
    rev: int = 0  #: of the document in the store, as it was last read or written here

    def set_aside_until(self, now: int) -> int:
        """Until when it is no source at all, UTC milliseconds; 0: it is one."""
        return self.quarantined_until if too_early(self.quarantined_until, now, QUARANTINE_MS) else 0

    @property
    def health(self) -> Health:
        """Whether calls to it succeed: they fail at first, and after several times it is down."""
        word = "down" if self.down else "does not answer" if self.failures else ""
        return Health(word=word, since=self.failing_since if word else 0)


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
        quarantine_ms: int = 60_000,
    ) -> None:
        """Make the registrations, empty.

        Args:
            store: Where they are kept.
            identity: This node's.
            ca_file: Further certificate authorities.
            now: UTC milliseconds.
            jitter: Returns 0.0 to 1.0.
            quarantine_ms: How long a peer that served wrong bytes is no source at first.
        """
        self._store = store
        self._identity = identity
        self._ca_file = ca_file
        self._now = now
        self._jitter = jitter
        self._quarantine_ms = min(quarantine_ms, QUARANTINE_MS)
        self._peers: dict[str, Peer] = {}
        self._clients: dict[str, PeerClient] = {}
        self._writing = asyncio.Lock()  #: one at a time, so that none of ours is stale
        self._skipped: set[str] = set()  #: rows that cannot be read
        #: called when a peer that was no source shows life
        self.on_up: Callable[[str], None] = lambda _: None
        self.on_left: Callable[[], None] = lambda: None  #: called when a registration has ended

    async def load(self) -> None:
        """Read all registrations."""
        async with self._writing:  # so that what is read is not older than what is known here
            docs = await self._store.find("peers", limit=_MANY)
            for doc in docs:
                self._take_in(doc)
            for id in set(self._peers) - {doc["_id"] for doc in docs}:
                self._forget(id)

    def _take_in(self, doc: Doc) -> None:
        """Take over one registration, as it is stored, if it is news and can be read."""
        old = self._peers.get(doc["_id"])
        if old is not None and not _is_another(doc, old) and doc["_rev"] <= old.rev:
            return
        try:
            new = _from_doc(doc)
        except (KeyError, TypeError, ValueError) as exc:
            self._skip(doc["_id"], exc)
            return
        if old is None or _is_another(doc, old):
            self._forget(new.id)
            self._peers[new.id] = new
        else:
            _take_over(old, new)

    def _skip(self, id: str, error: Exception) -> None:
        """An odd row must not hide the others; said once."""
        if id not in self._skipped:
            self._skipped.add(id)
            log.error(
                "a stored registration cannot be read and is skipped; join the peer again",
                extra={"action": "peer_skipped", "peer": id[:200], "reason": repr(error)[:200]},
            )

    async def follow(self) -> None:
        """Take over what other processes of this node write: a peer that joined, or was removed. Never returns."""
        seen = -1
        while True:
            await asyncio.sleep(_FOLLOW_S)
            try:
                seen = await self._store.changed("peers", seen, timeout=3600)
                await self.load()
            except OUTAGES:
                seen = -1

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

    def usable_sources(self, ids: Iterable[str], package: str) -> list[str]:
        """Those of the nodes that are registered there and here, and not set aside, as a whole or for this package."""
        return [id for id in ids if self._is_mutual(id) and self._away(self._peers[id], package) is None]

    def set_aside(self, ids: Iterable[str], package: str) -> list[SetAside]:
        """Those of the nodes that are registered and active, and not asked for this package for a while."""
        active = (self._peers[id] for id in ids if self._is_mutual(id))
        return [away for peer in active if (away := self._away(peer, package)) is not None]

    def _is_mutual(self, id: str) -> bool:
        """Whether a peer is registered here, and has not said that this node is not registered there."""
        return self.is_active(id) and not self._peers[id].disowned

    def doubt(self, id: str, package: str) -> str:
        """Why a peer does not prove that it has a package: what it did wrong with it in the last hour, or ""."""
        peer = self._peers.get(id)
        if peer is None:
            return ""
        struck = peer.packages.get(package)
        if struck is not None and abs(self._now() - struck.at) < _FORGIVE_MS:
            return struck.reason
        away = self._away(peer, package)
        return away.reason if away is not None else ""

    def quarantined_for(self, id: str) -> dict[str, SetAside]:
        """The packages that a peer is not asked for now, by package id."""
        peer, now = self._peers.get(id), self._now()
        struck = peer.packages.items() if peer is not None else ()
        return {
            package: SetAside(name=peer.name, until=strikes.until, reason=strikes.reason)
            for package, strikes in struck
            if peer is not None and package and strikes.ends(now)
        }

    def _away(self, peer: Peer, package: str) -> SetAside | None:
        now, struck = self._now(), peer.packages.get(package)
        until = max(peer.set_aside_until(now), struck.ends(now) if struck else 0)
        if not until:
            return None
        reason = struck.reason if struck and struck.ends(now) else peer.last_strike
        return SetAside(name=peer.name, until=until, reason=reason)

    # How they are doing

    def backing_off(self, id: str) -> bool:
        """Whether a peer failed lately and is left alone."""
        peer = self._peers.get(id)
        return peer is None or too_early(peer.retry_at, self._now(), _LONGEST_WAIT_MS)

    def health(self, id: str) -> Health | None:
        """How a registered node is doing; None for one that is not registered."""
        peer = self._peers.get(id)
        if peer is None or peer.state is not PeerState.ACTIVE:
            return None
        return peer.health

    def clock_agrees(self) -> bool:
        """Whether a peer's clock agrees with ours: requests between nodes hold for a minute only."""
        now = self._now()
        return any(
            peer.state is PeerState.ACTIVE and 0 <= now - peer.last_seen < AGREED_MS
            for peer in self._peers.values()
        )

    def clock_warning(self) -> str:
        """A sentence if clocks of peers differ from ours and none agrees with it, else ""."""
        off = [
            peer
            for peer in self._peers.values()
            if peer.state is PeerState.ACTIVE and abs(peer.clock_offset_ms) > CLOCK_MS
        ]
        if not off or self.clock_agrees():
            return ""
        peer = min(off, key=lambda one: abs(one.clock_offset_ms))
        side = "ahead of" if peer.clock_offset_ms > 0 else "behind"
        return (
            f"No peer agrees with this node's clock: that of {peer.name} is {abs(peer.clock_offset_ms) / 1000:,.0f} s "
            f"{side} it. Nodes refuse each other's requests, and what is changed here reaches no other. "
            "Set the wrong clock right (NTP)."
        )

    def is_down(self, id: str) -> bool:
        """Whether a peer failed several times in a row."""
        peer = self._peers.get(id)
        return peer is not None and peer.down

    async def record_success(self, id: str) -> None:
        """A call to a peer succeeded."""
        client, peer = self._clients.get(id), self._peers.get(id)
        if client is not None and peer is not None:
            peer.clock_offset_ms = client.clock_offset_ms
        await self.seen(id)

    async def seen(self, id: str) -> None:
        """A peer showed life: it answered, or its signed request came in."""
        peer = self._peers.get(id)
        if peer is None:
            return
        now = self._now()
        troubled = bool(peer.failures or peer.retry_at or peer.disowned)
        was_down, peer.down = peer.down, False
        was_away, peer.disowned = was_down or peer.disowned, False
        peer.failures, peer.retry_at, peer.last_seen, peer.last_error = 0, 0, now, ""
        peer.failing_since = 0
        events = []
        if was_down:
            events.append(entry(EventType.PEER_UP, at=now, actor=SYSTEM, subject=id, name=peer.name))
        if troubled or not too_early(peer.saved_at + _SAVE_EVERY_MS, now, _SAVE_EVERY_MS):
            await self._save(peer, events)
        if was_away:
            self.on_up(id)

    async def record_failure(self, id: str, error: PeerError) -> None:
        """A call to a peer failed: wait longer each time before the next. Breaking the protocol is a strike too.

        One that fails while the peer is left alone already was under way at that time: both are one failure.
        """
        peer = self._peers.get(id)
        if peer is None:
            return
        now = self._now()
        after = error.details.get("retry_after")
        if not self.backing_off(id):
            peer.failing_since = peer.failing_since if peer.failures and peer.failing_since else now
            peer.failures += 1
            wait = min(CAP_S, BASE_S * 2.0 ** min(peer.failures - 1, 20)) * (0.75 + 0.5 * self._jitter())
            peer.retry_at = now + round(1000 * wait)
        if isinstance(after, int | float):
            peer.retry_at = now + round(1000 * after)
        peer.last_error = error.message
        peer.disowned = peer.disowned or error.details.get("code") in NOT_REGISTERED
        ahead_s = error.details.get("offset_s")
        if isinstance(ahead_s, int):
            peer.clock_offset_ms = -1000 * ahead_s  # it says by how much we are ahead
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

    async def strike(self, id: str, reason: str, *, package: str = "") -> None:
        """A peer served what it should not: count it, show it, and set it aside after a few.

        A bad file says little about the others, so the peer is first set aside for that package only. When several
        packages fail, or it breaks the protocol several times, it is no source at all. Each time is twice as long as
        the one before, at most `QUARANTINE_MS`, and all is forgotten after an hour without a strike.

        Args:
            id: The peer.
            reason: What it did.
            package: Id of the package that it served wrong; "" for records and other answers.
        """
        peer = self._peers.get(id)
        if peer is None:
            return
        now = self._now()
        _forgive(peer, now)
        peer.strikes += 1
        peer.last_strike = reason
        struck = peer.packages.setdefault(package, Strikes())
        struck.count, struck.at, struck.reason = struck.count + 1, now, reason
        if struck.count % STRIKES == 0:
            struck.until = now + self._while(struck.count // STRIKES - 1)
            failing = sum(1 for one in peer.packages.values() if one.until > 0)
            if not package or failing >= PACKAGES:
                peer.quarantined_until = now + self._while(peer.quarantines)
                peer.quarantines += 1
        event = entry(
            EventType.PEER_STRUCK,
            at=now,
            actor=SYSTEM,
            subject=id,
            name=peer.name,
            reason=reason,
            strikes=peer.strikes,
            package=package,
            quarantined_until=max(struck.until, peer.quarantined_until),
        )
        await self._save(peer, [event])

    async def redeem(self, id: str, package: str) -> None:
        """A peer gave all that was asked of a package: what it did wrong with it before does not count any more."""
        peer = self._peers.get(id)
        if peer is not None and peer.packages.pop(package, None) is not None:
            peer.quarantines = max(0, peer.quarantines - 1)
            await self._save(peer, [])

    async def forgive(self, package: str) -> None:
        """A person wants a package tried again, now and from everybody."""
        for peer in list(self._peers.values()):
            if package in peer.packages or peer.quarantined_until > self._now():
                peer.packages.pop(package, None)
                peer.quarantined_until = 0
                await self._save(peer, [])

    def _while(self, times: int) -> int:
        """How long, in milliseconds, after so many times before."""
        return int(min(QUARANTINE_MS, self._quarantine_ms * 2 ** min(times, 20)))

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
        async with self._writing:
            stored = await self._store.batch([Replace("peers", _to_doc(peer)), *more])
            peer.rev = stored[0]["_rev"] if stored[0] else 0
            self._peers[peer.id] = peer

    async def drop(self, id: str, events: Sequence[Insert], *, only: PeerState | None = None) -> None:
        """Delete a registration, if it is there, with how far its feed was read; one that was made since stays.

        Args:
            id: The peer.
            events: What is told of it.
            only: The state that it has to have, if only one will do.
        """
        known = self._peers.get(id)
        if known is None:
            return
        read = (Remove("cursors", id), Remove("followers", compared_id(id)))
        async with self._writing:
            for _ in range(_TRIES):
                doc = await self._store.get("peers", id)
                if doc is not None and (_is_another(doc, known) or doc["state"] != (only or doc["state"])):
                    self._take_in(doc)
                    return
                with contextlib.suppress(StaleRevision):
                    await self._store.batch(
                        [Remove("peers", id, doc["_rev"] if doc else None), *read, *events]
                    )
                    self._forget(id)
                    break
        self.on_left()

    async def describe(self, id: str, *, name: str, url: str, tls_fingerprint: str) -> None:
        """Take over what a peer's own newest record says of it."""
        for _ in range(
            _TRIES
        ):  # another process may write the registration as it was, and this one takes it over
            peer = self._peers.get(id)
            if peer is None or (peer.name, peer.url, peer.tls_fingerprint) == (name, url, tls_fingerprint):
                return
            peer.name, peer.url, peer.tls_fingerprint = name, url, tls_fingerprint
            await self._save(peer, [])

    def _forget(self, id: str) -> None:
        self._peers.pop(id, None)
        client = self._clients.pop(id, None)
        if client is not None:
            client.close()

    def _clock_events(self, peer: Peer) -> list[Insert]:
        """The event that tells that a peer's clock differs: once, until it is right again."""
        off = abs(peer.clock_offset_ms) > CLOCK_MS
        told, peer.clock_told = peer.clock_told, off
        if not off or told:
            return []
        event = entry(
            EventType.PEER_CLOCK,
            at=self._now(),
            actor=SYSTEM,
            subject=peer.id,
            name=peer.name,
            offset_s=round(peer.clock_offset_ms / 1000),
        )
        return [event]

    async def _save(self, peer: Peer, events: Sequence[Insert]) -> None:
        """Write health, if the registration still stands; a store that is down does not stop the work."""
        peer.saved_at = self._now()
        events = [*events, *self._clock_events(peer)]
        try:
            async with self._writing:
                await self._save_now(peer, events)
        except OUTAGES as exc:
            log.debug(
                "a peer's health was not written", extra={"action": "health_unwritten", "reason": exc.message}
            )

    async def _save_now(self, peer: Peer, events: Sequence[Insert]) -> None:
        for _ in range(_TRIES):
            if self._peers.get(peer.id) is not peer:
                return  # removed meanwhile: to write it would bring it back
            doc = await self._store.get("peers", peer.id)
            if doc is None:
                self._forget(peer.id)
                return
            if _is_another(doc, peer):  # how the peer did before says nothing of it
                self._take_in(doc)
                return
            if doc["_rev"] > peer.rev:
                try:
                    _take_over_registration(peer, _from_doc(doc))
                except (KeyError, TypeError, ValueError) as exc:
                    self._skip(peer.id, exc)
                    return
            with contextlib.suppress(StaleRevision):
                stored = await self._store.batch([Replace("peers", _to_doc(peer), peer.rev), *events])
                peer.rev = stored[0]["_rev"] if stored[0] else peer.rev
                return


def compared_id(peer: str) -> str:
    """The id of what is noted in `followers` of the last comparison with a peer."""
    return f"compared:{peer}"


_REGISTRATION = ("key", "url", "name", "tls_fingerprint", "joined_at")
_HEALTH = (
    "failures",
    "retry_at",
    "last_seen",
    "last_error",
    "down",
    "disowned",
    "failing_since",
    "strikes",
    "last_strike",
    "quarantined_until",
    "quarantines",
    "clock_offset_ms",
    "clock_told",
    "notice",
)


def _forgive(peer: Peer, now: int) -> None:
    """Forget strikes after an hour, and the oldest of too many."""
    kept = [
        (package, one)
        for package, one in peer.packages.items()
        if too_early(one.at + _FORGIVE_MS + 1, now, _FORGIVE_MS)
    ]
    if not kept:
        peer.quarantines = 0
    peer.packages = dict(sorted(kept, key=lambda item: item[1].at)[-_REMEMBERED:])


def _to_doc(peer: Peer) -> Doc:
    doc: dict[str, Any] = {name: getattr(peer, name) for name in (*_REGISTRATION, *_HEALTH)}
    packages = [{"package": package, **asdict(strikes)} for package, strikes in peer.packages.items()]
    return {"_id": peer.id, "state": str(peer.state), **doc, "packages": packages}


_BLANK = Peer(id="", key=b"", url="", name="")


def _from_doc(doc: Doc) -> Peer:
    """The peer of a row.

    Raises:
        KeyError: A field is missing.
        ValueError: A field is of another type.
    """
    fields = {name: doc[name] for name in (*_REGISTRATION, *_HEALTH) if name in doc}
    for name, value in fields.items():
        if not isinstance(value, type(getattr(_BLANK, name))):
            raise ValueError(f"{name} is {value!r:.80}")
    state, rev = PeerState(doc["state"]), doc["_rev"]
    return Peer(id=doc["_id"], state=state, rev=rev, packages=_packages(doc), **fields)


def _is_another(doc: Doc, peer: Peer) -> bool:
    """Whether a registration was ended and made again since it was read: its writes count from 1 again then."""
    return bool(doc["_rev"] < peer.rev or doc.get("joined_at", 0) != peer.joined_at)


def _packages(doc: Doc) -> dict[str, Strikes]:
    rows = [dict(row) for row in doc.get("packages", [])]
    return {row.pop("package"): Strikes(**row) for row in rows}


def _take_over_registration(peer: Peer, stored: Peer) -> None:
    """What another process wrote of the registration; how the peer is doing is known here as well as there."""
    for name in _REGISTRATION:
        setattr(peer, name, getattr(stored, name))
    peer.state, peer.rev = stored.state, stored.rev
    peer.strikes = max(peer.strikes, stored.strikes)
    peer.quarantined_until = max(peer.quarantined_until, stored.quarantined_until)
    peer.quarantines = max(peer.quarantines, stored.quarantines)
    for package in {*peer.packages, *stored.packages}:
        ours = peer.packages.get(package, Strikes())
        theirs = stored.packages.get(package, ours)
        peer.packages[package] = max(ours, theirs, key=lambda one: (one.at, one.count))


def _take_over(peer: Peer, stored: Peer) -> None:
    """What another process wrote, of the registration and of how the peer is doing."""
    _take_over_registration(peer, stored)
    peer.packages = stored.packages
    for name in _HEALTH:
        setattr(peer, name, getattr(stored, name))
