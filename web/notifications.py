"""Notifications: where they go, and what was delivered."""

from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import quote, urlencode

from appliance.api.cursors import after, encode
from appliance.api.models import DeliveriesQuery, NoQuery
from appliance.api.notifications import deliveries_filter, delivery_json, destination_json
from appliance.domain.destination import DeliveryState
from appliance.domain.event import EventType
from appliance.service.accounts import Role

from .pages import PageHandler
from .wording import subject_name

PAGE = 50
EVENTS = (
    "*",
    *(
        str(one)
        for one in EventType
        if not str(one).startswith(("destination.", "session.", "token.", "job."))
    ),
)
#: what most people want to hear of
USUAL = frozenset(
    {
        "package.published", "package.replaced", "package.withdrawn", "package.replicated", "package.damaged",
        "replication.stuck", "transfer.failed", "peer.joined", "peer.left", "peer.down", "peer.up", "peer.struck",
        "disk.low", "certificate.expiring", "certificate.refused", "sign_in.locked", "mdm.attention", "peer.clock",
        "task.failed",
    }
)  # fmt: skip
_OPERATOR: Mapping[str, Role] = {"GET": Role.OPERATOR}


class NotificationsPage(PageHandler):
    """`/ui/notifications`."""

    title = "Notifications"
    section = "/ui/notifications"
    roles: ClassVar[Mapping[str, Role]] = _OPERATOR

    async def get(self) -> None:
        """Every destination, and forms that make another."""
        self.query_as(NoQuery)
        parts = self.app.notifications
        items = [
            destination_json(each, await parts.deliveries.owed(each.id))
            for each in await parts.destinations.all()
        ]
        self.page(
            "notifications.html",
            items=items,
            events=EVENTS,
            usual=USUAL,
            mail=bool(self.app.settings.mail.host),
        )


class DestinationPage(PageHandler):
    """`/ui/notifications/{id}`."""

    section = "/ui/notifications"
    roles: ClassVar[Mapping[str, Role]] = _OPERATOR

    async def get(self, id: str) -> None:
        """One destination: how it does, and its settings."""
        self.query_as(NoQuery)
        parts = self.app.notifications
        found = await parts.destinations.get(id)
        shown = destination_json(found, await parts.deliveries.owed(id))
        docs = await parts.deliveries.page({"destination": id}, limit=10, after=None)
        self.title = found.name
        self.page(
            "destination.html",
            destination=shown,
            path=quote(id),
            events=[*EVENTS, *(one for one in shown["events"] if one not in EVENTS)],
            deliveries=[
                {**delivery_json(doc, {id: found}), "about": subject_name(doc["subject"], self.app)}
                for doc in docs
            ],
        )


class DeliveriesPage(PageHandler):
    """`/ui/deliveries`."""

    title = "Deliveries"
    section = "/ui/deliveries"
    roles: ClassVar[Mapping[str, Role]] = _OPERATOR

    async def get(self) -> None:
        """What was delivered and what is owed, the last changed first."""
        query = self.query_as(DeliveriesQuery)
        parts = self.app.notifications
        known = await parts.destinations.by_id()
        names = {id: each.name for id, each in known.items()}
        where = deliveries_filter(query, known)
        docs = await parts.deliveries.page(where, limit=PAGE + 1, after=after(query.cursor))
        shown = docs[:PAGE]
        cursor = encode([shown[-1]["updated_at"], shown[-1]["_id"]]) if len(docs) > PAGE else ""
        self.page(
            "deliveries.html",
            items=[
                {
                    **delivery_json(doc, known),
                    "name": names.get(doc["destination"], ""),
                    "about": subject_name(doc["subject"], self.app),
                }
                for doc in shown
            ],
            query=query,
            chosen=where.get("destination", ""),
            states=[str(state) for state in DeliveryState],
            destinations=names,
            next=f"/ui/deliveries?{urlencode({**where, 'cursor': cursor})}" if cursor else "",
        )
