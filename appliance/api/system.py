"""About this node: who it is, how it is doing, what happened."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar

from appliance import __version__
from appliance.domain.errors import InvalidInput
from appliance.domain.event import Event
from appliance.service.accounts import Role
from appliance.service.throughput import STEP_S
from config.loading import described

from .base import BaseHandler
from .models import EventsExport, EventsQuery, NoQuery
from .moments import moment
from .views import iso, scrub_json

_EXPORT_AT_ONCE = 500


class AboutHandler(BaseHandler):
    """`/api/v1/about`."""

    async def get(self) -> None:
        """Who this node is, and who asks."""
        node = self.app.settings.node
        self.write_json(
            {
                "name": self.app.node_name,
                "node_id": self.app.identity.node_id,
                "url": self.app.node_url,
                "download_url": f"{self.app.download_url}/Packages/",
                "version": __version__,
                "stage": node.stage,
                "stages": list(node.stages),
                "tags_take": list(node.tags_take),
                "tags_refuse": list(node.tags_refuse),
                "account": self.actor,
                "role": self.principal.role.word if self.principal else "",
            }
        )


class SystemHandler(BaseHandler):
    """`/api/v1/system`."""

    async def get(self) -> None:
        """Disk, memory, uptime, version."""
        report = asdict(await self.app.system.report())
        report["memory"] = {"rss": report.pop("memory_rss")}
        self.write_json(report)


class ThroughputHandler(BaseHandler):
    """`/api/v1/system/throughput`."""

    def get(self) -> None:
        """Bytes of packages that came and went in the last hour."""
        steps = [{**asdict(step), "at": iso(step.at)} for step in self.app.throughput.steps()]
        self.write_json({"step_s": STEP_S, "steps": steps})


class ScrubHandler(BaseHandler):
    """`/api/v1/scrub`."""

    async def get(self) -> None:
        """How the reading of all files is doing."""
        self.write_json(scrub_json(await self.app.scrub.status()))

    async def post(self) -> None:
        """Have every file read now."""
        self.body_as(NoQuery)
        await self.app.scrub.start(actor=self.actor)
        self.write_json(scrub_json(await self.app.scrub.status()), 202)


class EventsHandler(BaseHandler):
    """`/api/v1/events`."""

    query = EventsQuery

    async def get(self) -> None:
        """What happened here."""
        query = self.query_as(EventsQuery)
        events = await self.app.events.page(
            since=query.since,
            before=query.before,
            limit=query.limit + 1,
            **event_filter(query),
        )
        items = [
            {
                "seq": event.seq,
                "type": event.type,
                "at": iso(event.at),
                "actor": event.actor,
                "subject": event.subject,
                "data": event.data,
            }
            for event in events[: query.limit]
        ]
        more = len(events) > query.limit
        self.write_json({"items": items, "next": items[-1]["seq"] if more else None})


class EventsExportHandler(BaseHandler):
    """`/api/v1/events.csv`."""

    query = EventsExport

    async def get(self) -> None:
        """Every event that is kept, oldest first, as a table."""
        wanted = event_filter(self.query_as(EventsExport))
        self.set_header("Content-Type", "text/csv; charset=utf-8; header=present")
        self.set_header("Content-Disposition", 'attachment; filename="ods-events.csv"')
        self.write(
            csv_line(["number", "time", "type", "actor", "address", "subject", "before", "after", "details"])
        )
        since = 0
        while True:
            events = await self.app.events.page(since=since, limit=_EXPORT_AT_ONCE, **wanted)
            self.write("".join(csv_line(_cells(event)) for event in events))
            await self.flush()
            if len(events) < _EXPORT_AT_ONCE:
                return
            since = events[-1].seq


def event_filter(query: EventsExport) -> dict[str, Any]:
    """What a query asks for, as `Events.page` takes it.

    Raises:
        InvalidInput: A moment or the zone is none, or the start is behind the end.
    """
    start, end = moment("start", query.start, query.zone), moment("end", query.end, query.zone, end=True)
    if start is not None and end is not None and start >= end:
        raise InvalidInput("The start is not before the end.", fields={"start": "It is not before the end."})
    return {
        "type": query.type,
        "subject": query.subject,
        "actor": query.actor,
        "start": start,
        "end": end,
    }


def _cells(event: Event) -> list[str]:
    data = dict(event.data)
    address = str(data.pop("address", ""))
    parts = [data.pop("before", None), data.pop("after", None), data or None]
    who = [str(event.seq), iso(event.at) or "", event.type, event.actor, address, event.subject]
    return who + ["" if part is None else json.dumps(part, ensure_ascii=False) for part in parts]


def csv_line(cells: list[str]) -> str:
    """A line of CSV (RFC 4180). What a spreadsheet would take for a formula becomes text."""
    safe = [f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell for cell in cells]
    return ",".join('"' + cell.replace('"', '""') + '"' for cell in safe) + "\r\n"


class SettingsHandler(BaseHandler):
    """`/api/v1/settings`."""

    roles: ClassVar[Mapping[str, Role]] = {"GET": Role.ADMIN}

    async def get(self) -> None:
        """The settings in force, secrets masked."""
        items = [asdict(setting) for setting in described(self.app.settings)]
        self.write_json({"items": items, "next": None})
