"""Destinations of notifications, and what was delivered to them."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from appliance.domain.destination import DeliveryState, Destination, DestinationKind, DestinationState
from appliance.domain.errors import InvalidInput
from appliance.service.accounts import Role
from appliance.service.notifications.deliveries import Attempt

from .base import BaseHandler
from .cursors import after, encode
from .models import DeliveriesQuery, DestinationChange, DestinationInput
from .views import iso

_ID = re.compile(r"[a-z2-7]{8}")  #: of a destination; one that was removed is no mistake
_READ: Mapping[str, Role] = {"GET": Role.OPERATOR}


def destination_json(destination: Destination, owed: int) -> dict[str, Any]:
    """A destination without its secrets; of a URL only the host is shown."""
    webhook = destination.kind is DestinationKind.WEBHOOK
    return {
        "id": destination.id,
        "name": destination.name,
        "kind": str(destination.kind),
        "events": list(destination.events),
        "state": str(destination.state),
        "enabled": destination.state is not DestinationState.DISABLED,
        "format": str(destination.format) if webhook else "",
        "url": destination.shown_url,
        "template": destination.template,
        "content_type": destination.content_type if destination.template else "",
        "allow_private": destination.allow_private,
        "old_secret_until": iso(destination.old_secret_until),
        "address": destination.address,
        "mode": "" if webhook else str(destination.mode),
        "hour": destination.hour,
        "zone": destination.zone,
        "waiting": owed,
        "failures": destination.failures,
        "failing_since": iso(destination.failing_since),
        "last_error": destination.last_error,
        "last_success": iso(destination.last_success),
        "not_before": iso(destination.not_before),
        "version": destination.version,
        "created_at": iso(destination.created_at),
        "changed_at": iso(destination.changed_at),
    }


def delivery_json(doc: Mapping[str, Any], destinations: Mapping[str, Destination]) -> dict[str, Any]:
    """A delivery.

    Args:
        doc: As it is stored.
        destinations: Those that there are, by id.
    """
    return {
        "id": doc["_id"],
        "destination": doc["destination"],
        "event": doc["seq"],
        "type": doc["type"],
        "subject": doc["subject"],
        "state": doc["state"],
        "attempts": doc["attempts"],
        "due_at": iso(_next_try(doc, destinations.get(doc["destination"]))),
        "status": doc["status"],
        "latency_ms": doc["latency_ms"],
        "answer": doc["answer"],
        "error": doc["error"],
        "created_at": iso(doc["created_at"]),
        "updated_at": iso(doc["updated_at"]),
        "delivered_at": iso(doc["delivered_at"]),
    }


def _next_try(doc: Mapping[str, Any], destination: Destination | None) -> int:
    """When it is tried at the earliest, in UTC milliseconds; 0 while nothing is sent to its destination."""
    if destination is None or destination.state is not DestinationState.ACTIVE:
        return 0
    return max(int(doc["due_at"]), destination.not_before) if doc["state"] == DeliveryState.PENDING else 0


def attempt_json(attempt: Attempt) -> dict[str, Any]:
    """How a test went."""
    receipt, error = attempt.receipt, attempt.error
    details = error.details if error is not None else {}
    return {
        "ok": receipt is not None,
        "status": receipt.status if receipt is not None else details.get("status", 0),
        "latency_ms": attempt.latency_ms,
        "answer": receipt.answer if receipt is not None else details.get("answer", ""),
        "error": error.message if error is not None else "",
    }


class DestinationsHandler(BaseHandler):
    """`/api/v1/destinations`."""

    roles: ClassVar[Mapping[str, Role]] = {**_READ, "POST": Role.ADMIN}

    async def get(self) -> None:
        """Every destination."""
        parts = self.app.notifications
        items = [
            destination_json(each, await parts.deliveries.owed(each.id))
            for each in await parts.destinations.all()
        ]
        self.write_json({"items": items, "next": None})

    async def post(self) -> None:
        """Make one; the secret is shown only now."""
        given = self.body_as(DestinationInput).model_dump(exclude_unset=True, exclude_none=True)
        made, secret = await self.app.notifications.destinations.add(given, actor=self.actor)
        self.write_json({"secret": secret, **destination_json(made, 0)}, 201)


class DestinationHandler(BaseHandler):
    """`/api/v1/destinations/{id}`."""

    roles: ClassVar[Mapping[str, Role]] = {**_READ, "PATCH": Role.ADMIN, "DELETE": Role.ADMIN}
    conditional = frozenset({"PATCH", "DELETE"})

    async def get(self, id: str) -> None:
        """One destination."""
        parts = self.app.notifications
        found = await parts.destinations.get(id)
        self.version = str(found.version)
        self.write_json(destination_json(found, await parts.deliveries.owed(id)))

    async def patch(self, id: str) -> None:
        """Change it."""
        given = self.body_as(DestinationChange).model_dump(exclude_unset=True, exclude_none=True)
        parts = self.app.notifications
        old = await parts.destinations.get(id)
        stated = given.pop("version", None)
        expect = self.expected(old.name, old.version, stated, changed_at=old.changed_at)
        changed = await parts.change(id, given, actor=self.actor, expect=expect)
        self.write_json(destination_json(changed, await parts.deliveries.owed(id)))

    async def delete(self, id: str) -> None:
        """Remove it, with what is owed to it."""
        destinations = self.app.notifications.destinations
        old = await destinations.get(id)
        expect = self.expected(old.name, old.version, changed_at=old.changed_at)
        await destinations.remove(id, expect=expect, actor=self.actor)
        self.set_status(204)
        self.finish()


class DestinationTestHandler(BaseHandler):
    """`/api/v1/destinations/{id}/test`."""

    roles: ClassVar[Mapping[str, Role]] = {"POST": Role.ADMIN}

    async def post(self, id: str) -> None:
        """Send a test event now; the answer says how it went."""
        self.write_json(attempt_json(await self.app.notifications.try_out(id)))


class DestinationRotateHandler(BaseHandler):
    """`/api/v1/destinations/{id}/rotate`."""

    roles: ClassVar[Mapping[str, Role]] = {"POST": Role.ADMIN}

    async def post(self, id: str) -> None:
        """Make a new secret; it is shown only now."""
        parts = self.app.notifications
        changed, secret = await parts.destinations.rotate(id, actor=self.actor)
        self.write_json({"secret": secret, **destination_json(changed, await parts.deliveries.owed(id))})


class DeliveriesHandler(BaseHandler):
    """`/api/v1/deliveries`."""

    roles: ClassVar[Mapping[str, Role]] = _READ
    query = DeliveriesQuery

    async def get(self) -> None:
        """Deliveries, the last changed first."""
        query = self.query_as(DeliveriesQuery)
        known = await self.app.notifications.destinations.by_id()
        where = deliveries_filter(query, known)
        docs = await self.app.notifications.deliveries.page(
            where, limit=query.limit + 1, after=after(query.cursor)
        )
        page = docs[: query.limit]
        following = encode([page[-1]["updated_at"], page[-1]["_id"]]) if len(docs) > len(page) else None
        self.write_json({"items": [delivery_json(doc, known) for doc in page], "next": following})


def deliveries_filter(query: DeliveriesQuery, known: Mapping[str, Destination]) -> dict[str, Any]:
    """What a query asks for, as `Deliveries.page` takes it.

    Args:
        query: It names the destination by its id or its name.
        known: The destinations that there are, by id.

    Raises:
        InvalidInput: There is no such destination. One of an id may be gone and have deliveries still.
    """
    named = {each.name: id for id, each in known.items()}
    wanted = query.destination
    destination = wanted if wanted in known else named.get(wanted, wanted)
    if destination and not _ID.fullmatch(destination):
        there = ", ".join(named) or "none"
        reason = f'There is no destination "{destination}"; there are: {there}.'
        raise InvalidInput(reason, fields={"destination": reason})
    given = {"destination": destination, "state": query.state, "type": query.type}
    return {name: value for name, value in given.items() if value}


class DeliveryHandler(BaseHandler):
    """`/api/v1/deliveries/{id}`."""

    roles: ClassVar[Mapping[str, Role]] = _READ

    async def get(self, id: str) -> None:
        """One delivery."""
        parts = self.app.notifications
        self.write_json(delivery_json(await parts.deliveries.get(id), await parts.destinations.by_id()))


class DeliveryResendHandler(BaseHandler):
    """`/api/v1/deliveries/{id}/resend`."""

    async def post(self, id: str) -> None:
        """Send it again now."""
        parts = self.app.notifications
        self.write_json(delivery_json(await parts.deliveries.resend(id), await parts.destinations.by_id()))
