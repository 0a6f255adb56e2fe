"""The audit log: who did what, when and from where."""

from urllib.parse import urlencode

from appliance.api.models import EventsQuery
from appliance.api.system import event_filter
from appliance.domain.errors import PackageUnknown
from appliance.domain.event import EventType

from .pages import PageHandler
from .wording import event_view

PAGE = 50
FILTERS = ("type", "subject", "actor", "start", "end")


class AuditPage(PageHandler):
    """`/ui/audit`."""

    title = "Audit log"
    section = "/ui/audit"

    async def get(self) -> None:
        """A page of events, newest first."""
        query = self.query_as(EventsQuery)
        given = {name: value for name in FILTERS if (value := getattr(query, name))}
        if query.start or query.end:
            given["zone"] = query.zone
        subject = given.get("subject")
        if subject:
            try:
                subject = self.app.catalogue.resolve(subject).id
            except PackageUnknown:
                subject = given["subject"].strip()
        events = await self.app.events.page(
            before=query.before, limit=PAGE + 1, **{**event_filter(query), "subject": subject}
        )
        shown = events[:PAGE]
        following = {**given, "before": shown[-1].seq} if len(events) > PAGE else {}
        names = [str(type) for type in EventType]
        types = sorted({f"{name.partition('.')[0]}.*" for name in names} | set(names))
        wanted = {**given, **({"subject": subject} if subject else {})}
        self.page(
            "audit.html",
            items=[event_view(event, self.app) for event in shown],
            query=query,
            types=types,
            next=f"/ui/audit?{urlencode(following)}" if following else "",
            export="/api/v1/events.csv" + (f"?{urlencode(wanted)}" if wanted else ""),
            filtered=bool(given),
        )
