"""How a configured MDM server is doing: its state, and the facts that are noted beside it.

    connected ---> unreachable      a call failed in a way that mends itself
        |               |
        +-> attention <-+           a person has to mend something; only `recovered` or a changed configuration ends it

A pause lies over these states and ends by itself. Every change of state is one line in the log and one event, however
often the failure repeats. All writes compare the document's revision and try again: workers write too.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from appliance.domain.errors import StaleRevision
from appliance.domain.event import EventType
from appliance.domain.mdm_errors import MdmError, ServerUnknown
from appliance.service.journal import SYSTEM, entry
from appliance.store.ports import Doc, Enqueue, Operation, Replace, Store

from ..jobs import sync_job
from .server import ServerState

log = logging.getLogger(__name__)

COLLECTION = "mdm_servers"
_TRIES = 20
_ATTENTION, _UNREACHABLE, _CONNECTED = (
    str(state) for state in (ServerState.ATTENTION, ServerState.UNREACHABLE, ServerState.CONNECTED)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was asked of the next sync."""

    what: frozenset[str]
    asks: int  #: how often anything was asked for until then


class ServerHealth:
    """Writes the state and the health of servers."""

    def __init__(self, store: Store, now: Callable[[], int]) -> None:
        self._store = store
        self._now = now
        self._writing = asyncio.Lock()  # of this process: so that its own writes do not meet
        self.generation = (
            0  #: counts changes of configuration and pauses by this process: who caches servers compares it
        )

    async def attention(self, id: str, error: MdmError) -> None:
        """A person has to mend something; said once for each kind of failure."""
        await self._fail(id, _ATTENTION, error)

    async def unreachable(self, id: str, error: MdmError) -> None:
        """The server does not answer now. One that needs attention goes on needing it."""
        await self._fail(id, _UNREACHABLE, error)

    async def recovered(self, id: str, missing: str = "") -> None:
        """All went well, but for an ability that the server refused lately: `missing` is a sentence about it."""

        def change(doc: Doc) -> list[Operation] | None:
            before = doc["state"]
            if (before, doc["reason"]) == (_CONNECTED, missing):
                return None
            doc.update(state=_CONNECTED, reason=missing)
            if before == _CONNECTED:
                return []
            return self._told(doc, EventType.MDM_RECOVERED, before=before)

        await self.edit(id, change)

    async def _fail(self, id: str, state: str, error: MdmError) -> None:
        reason = error.message

        def change(doc: Doc) -> list[Operation] | None:
            before = doc["state"]
            if state == _UNREACHABLE and before == _ATTENTION:
                return None
            if (before, doc["reason"]) == (state, reason):
                return None
            doc.update(state=state, reason=reason)
            return self._told(doc, EventType.MDM_ATTENTION, before=before) if before != state else []

        await self.edit(id, change)

    def _told(self, doc: Doc, type: EventType, *, before: str) -> list[Operation]:
        """Log a change of state; return the operation that writes its event."""
        name, state, reason = doc["config"]["name"], doc["state"], doc["reason"]
        log.log(
            logging.INFO if state == _CONNECTED else logging.WARNING,
            "%s: %s",
            name,
            reason or "it works again",
            extra={"action": "mdm_state", "mdm": doc["_id"], "before": before, "state": state},
        )
        facts = {"name": name, "state": state, "before": before, "reason": reason}
        return [entry(type, at=self._now(), actor=SYSTEM, subject=doc["_id"], **facts)]

    async def pause(self, id: str, until_ms: int, reason: str, *, actor: str = SYSTEM) -> None:
        """Ask nothing of a server until then.

        Args:
            id: The server.
            until_ms: UTC milliseconds.
            reason: Why, for people.
            actor: Who wants it. A pause by a person is not replaced by one of the system's.
        """

        def change(doc: Doc) -> list[Operation] | None:
            health = doc["health"]
            held = health.get("paused_until", 0) > self._now() and health.get("paused_by") != SYSTEM
            if held and actor == SYSTEM:
                return None
            doc["health"] = {**health, "paused_until": until_ms, "pause_reason": reason, "paused_by": actor}
            if actor == SYSTEM:
                return []
            return [self._changed(doc, actor, "paused")]

        await self.edit(id, change)
        self.generation += 1

    async def resume(self, id: str, *, actor: str = SYSTEM) -> bool:
        """End a pause and queue a sync; the system ends only its own.

        Returns:
            Whether there was a pause to end.
        """
        ended = False

        def change(doc: Doc) -> list[Operation] | None:
            nonlocal ended
            health = dict(doc["health"])
            ended = health.get("paused_until", 0) > self._now()
            if not ended or (actor == SYSTEM and health.get("paused_by") != SYSTEM):
                ended = False
                return None
            for name in ("paused_until", "pause_reason", "paused_by"):
                health.pop(name, None)
            doc["health"] = health
            operations: list[Operation] = [Enqueue(sync_job(id, self._now(), reason="resumed"))]
            return operations if actor == SYSTEM else [self._changed(doc, actor, "resumed"), *operations]

        await self.edit(id, change)
        self.generation += 1
        return ended

    def _changed(self, doc: Doc, actor: str, what: str) -> Operation:
        facts = {"name": doc["config"]["name"], "what": what}
        return entry(EventType.MDM_CHANGED, at=self._now(), actor=actor, subject=doc["_id"], **facts)

    async def note(self, id: str, **health: Any) -> None:
        """Set facts about a server, such as `last_poll_at`; None removes one. A server that is gone is no fault."""

        def change(doc: Doc) -> list[Operation] | None:
            whole = {**doc["health"], **health}
            whole = {name: value for name, value in whole.items() if value is not None}
            if whole == doc["health"]:
                return None
            doc["health"] = whole
            return []

        await self._edit_if_there(id, change)

    async def count(self, id: str, counts: dict[str, int], **health: Any) -> None:
        """Add to counters, such as `hooks_received`, and set facts, in one write."""

        def change(doc: Doc) -> list[Operation]:
            whole = {**doc["health"], **health}
            for name, number in counts.items():
                whole[name] = int(whole.get(name, 0)) + number
            doc["health"] = whole
            return []

        await self._edit_if_there(id, change)

    async def ask(self, id: str, *what: str) -> None:
        """Have the next sync do more than usual, "probe" or "verify", whatever job it is that runs it."""

        def change(doc: Doc) -> list[Operation] | None:
            doc["asked"] = sorted({*doc.get("asked", []), *what})
            doc["asks"] = doc.get("asks", 0) + 1
            return []

        await self.edit(id, change)

    async def asked(self, id: str) -> Asked:
        """What the sync that begins now must do beside the usual; it stays asked for until `fulfilled`."""
        doc = await self._store.get(COLLECTION, id) or {}
        return Asked(what=frozenset(doc.get("asked", [])), asks=doc.get("asks", 0))

    async def fulfilled(self, id: str, asked: Asked, *what: str) -> None:
        """A sync did what was asked for; what was asked for again since it began is for the next."""

        def change(doc: Doc) -> list[Operation] | None:
            left = [one for one in doc.get("asked", []) if one not in what]
            if doc.get("asks", 0) != asked.asks or left == doc.get("asked", []):
                return None
            doc["asked"] = left
            return []

        await self._edit_if_there(id, change)

    async def _edit_if_there(self, id: str, change: Callable[[Doc], list[Operation] | None]) -> None:
        try:
            await self.edit(id, change)
        except ServerUnknown:
            log.debug("a server was removed meanwhile", extra={"action": "mdm_gone", "mdm": id})

    async def edit(self, id: str, change: Callable[[Doc], list[Operation] | None]) -> None:
        """Change a server's document, and do more in the same operation.

        Args:
            id: The server.
            change: Changes the document and returns further operations, or None if there is nothing to write; it is
                called again when somebody else was faster.

        Raises:
            ServerUnknown: There is no such server.
            StaleRevision: Others were faster every time.
        """
        async with self._writing:
            await self.edit_locked(id, change)

    async def edit_locked(self, id: str, change: Callable[[Doc], list[Operation] | None]) -> None:
        """As `edit`, for who holds the lock."""
        for _ in range(_TRIES):
            doc = await self._store.get(COLLECTION, id)
            if doc is None:
                raise ServerUnknown(f"There is no MDM server {id}.", server=id)
            revision = doc.pop("_rev")
            more = change(doc)
            if more is None:
                return
            try:
                await self._store.batch([Replace(COLLECTION, doc, revision), *more])
            except StaleRevision:
                continue
            return
        raise StaleRevision(f"The MDM server {id} is being changed by others; try again.", server=id)
