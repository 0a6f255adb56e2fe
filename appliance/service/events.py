"""Reads the event log; `journal` writes it."""

from collections.abc import Callable
from typing import Any

from appliance.domain.event import Event, EventType
from appliance.store.ports import Doc, Store

from .journal import entry


class Events:
    """The log of what happened at this node."""

    def __init__(self, store: Store, now: Callable[[], int]) -> None:
        self._store = store
        self._now = now

    async def record(self, type: EventType, *, actor: str, subject: str, **data: Any) -> None:
        """Log what a change did that is no store operation of ours; all others log in the same operation."""
        await self._store.batch([entry(type, at=self._now(), actor=actor, subject=subject, **data)])

    async def page(
        self,
        *,
        since: int | None = None,
        before: int | None = None,
        type: str | None = None,
        subject: str | None = None,
        actor: str | None = None,
        start: int | None = None,
        end: int | None = None,
        limit: int = 100,
    ) -> list[Event]:
        """A page of events.

        Args:
            since: Events behind this number, oldest first; without it the newest come first.
            before: Events before this number.
            type: Only this type, or those of a pattern such as "package.*".
            subject: Only about this.
            actor: Only by this account, `node:<id>` or `system`.
            start: Only from then on, UTC milliseconds.
            end: Only before then, UTC milliseconds.
            limit: At most so many.
        """
        seq: dict[str, int] = {}
        if since is not None:
            seq["gt"] = since
        if before is not None:
            seq["lt"] = before
        at = {name: value for name, value in (("gte", start), ("lt", end)) if value is not None}
        kind = {"prefix": type[:-1]} if type and type.endswith(".*") else type
        given = (("type", kind), ("subject", subject), ("actor", actor), ("seq", seq), ("at", at))
        where = {name: value for name, value in given if value}
        docs = await self._store.find("events", where, order="seq", descending=since is None, limit=limit)
        return [event_of(doc) for doc in docs]


def event_of(doc: Doc) -> Event:
    """The event of a document."""
    return Event(
        seq=doc["seq"],
        type=doc["type"],
        at=doc["at"],
        actor=doc["actor"],
        subject=doc["subject"],
        data=doc["data"],
    )
