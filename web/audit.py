"""The audit log: who did what, when and from where."""

from urllib.parse import urlencode

from appliance.api.models import EventsQuery
from appliance.domain.errors import PackageUnknown
from appliance.domain.event import EventType

from .pages import PageHandler
from .wording import event_view

PAGE = 50


class AuditPage(PageHandler):
    """`/ui/audit`."""

    title = "Audit log"
    section = "/ui/audit"

    async def get(self) -> None:
        """A page of events, newest first."""
        query = self.query_as(EventsQuery)
        given = {name: value for name in ("type", "subject", "actor") if (value := getattr(query, name))}
        subject = given.get("subject")
        if subject:
            try:
                subject = self.app.catalogue.resolve(subject).id
            except PackageUnknown:
                subject = given["subject"].strip()
        events = await self.app.events.page(
            before=query.before,
            type=query.type or None,
            subject=subject,
            actor=query.actor or None,
            limit=PAGE + 1,
        )
        shown = events[:PAGE]
        following = {**given, "before": shown[-1].seq} if len(events) > PAGE else {}
        wanted = {**given, **({"subject": subject} if subject else {})}
        self.page(
            "audit.html",
            items=[event_view(event, self.app) for event in shown],
            query=query,
            types=[str(type) for type in EventType],
            next=f"/ui/audit?{urlencode(following)}" if following else "",
            export="/api/v1/events.csv" + (f"?{urlencode(wanted)}" if wanted else ""),
            filtered=bool(given),
        )
