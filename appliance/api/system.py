"""About this node: who it is, how it is doing, what happened."""

from dataclasses import asdict

from appliance import __version__
from appliance.service.throughput import STEP_S

from .base import BaseHandler
from .models import EventsQuery, NoQuery
from .views import iso


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
        self.query_as(NoQuery)
        steps = [{**asdict(step), "at": iso(step.at)} for step in self.app.throughput.steps()]
        self.write_json({"step_s": STEP_S, "steps": steps})


class EventsHandler(BaseHandler):
    """`/api/v1/events`."""

    async def get(self) -> None:
        """What happened here."""
        query = self.query_as(EventsQuery)
        events = await self.app.events.page(
            since=query.since,
            before=query.before,
            type=query.type,
            subject=query.subject,
            limit=query.limit + 1,
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
