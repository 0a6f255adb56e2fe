"""Reads the event log; `journal` writes it."""

from appliance.domain.event import Event
from appliance.store.ports import Doc, Store


class Events:
    """The log of what happened at this node."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def page(
        self,
        *,
        since: int | None = None,
        before: int | None = None,
        type: str | None = None,
        subject: str | None = None,
        limit: int = 100,
    ) -> list[Event]:
        """A page of events.

        Args:
            since: Events behind this number, oldest first; without it the newest come first.
            before: Events before this number.
            type: Only this type.
            subject: Only about this.
            limit: At most so many.
        """
        seq: dict[str, int] = {}
        if since is not None:
            seq["gt"] = since
        if before is not None:
            seq["lt"] = before
        where = {name: value for name, value in (("type", type), ("subject", subject), ("seq", seq)) if value}
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
