"""Sends what is due: the job on the queue "delivery", and the test that a person asks for."""

import logging
import ssl
import time
from collections.abc import Callable, Sequence

from appliance.domain.destination import TEST_EVENT, Destination, DestinationKind, WebhookFormat
from appliance.domain.errors import OUTAGES, ApplianceError, InvalidSettings
from appliance.domain.event import Event
from appliance.domain.job import Job
from appliance.domain.notify_errors import DeliveryError, DeliveryRefused
from appliance.jobs.context import JobContext
from appliance.store.ports import Store

from . import signature
from .addresses import Policy, parse_url, resolve
from .bodies import Teller, json_body
from .deliveries import Attempt, Deliveries, Due, send_job
from .destinations import Destinations
from .mailbox import MailServer, compose
from .mailbox import send as send_mail
from .template import render, sample
from .webhook import Receipt, post

log = logging.getLogger(__name__)

PER_RUN = 50  #: pieces that one run of the job sends; then other destinations have their turn
_STORE_WAIT_S = 2.0
_STORE_TRIES = 5


class Sending:
    """Speaks to destinations. Its methods block, except where they say otherwise."""

    def __init__(
        self,
        *,
        store: Store,
        destinations: Destinations,
        deliveries: Deliveries,
        policy: Policy,
        teller: Teller,
        mail: MailServer | None,
        trust: Callable[[], ssl.SSLContext],
        now: Callable[[], int],
    ) -> None:
        """Make a sender.

        Args:
            store: For jobs.
            destinations: Opens their secrets.
            deliveries: What is due.
            policy: What the settings allow.
            teller: This node.
            mail: The mail server; None if there is none.
            trust: Makes what verifies the certificates of receivers.
            now: UTC milliseconds.
        """
        self._store = store
        self._destinations = destinations
        self._deliveries = deliveries
        self._policy = policy
        self._teller = teller
        self._mail = mail
        self._trust = trust
        self._now = now

    def run(self, job: Job, context: JobContext) -> None:
        """Send what is due to one destination: the function of `SEND_JOB`, in a thread."""
        id = job.args["destination"]
        for _ in range(PER_RUN):
            context.check()
            due = context.wait(self._deliveries.due(id))
            if due is None:
                return
            self._record(due, self._attempt(due), context)
        context.wait(self._store.enqueue(send_job(id, self._now())))

    def try_out(self, destination: Destination) -> Attempt:
        """Send a test event to a destination, whatever its state."""
        event = sample(
            self._now(), TEST_EVENT, destination.id, {"name": destination.name, "note": "This is a test."}
        )
        return self._timed(destination, [event], f"test_{destination.id}_{event.at}")

    def _attempt(self, due: Due) -> Attempt:
        if not due.events:
            gone = DeliveryRefused("The event is not in the log any more.")
            return Attempt(latency_ms=0, error=gone)
        return self._timed(due.destination, due.events, f"evt_{due.rows[0]['event']}")

    def _timed(self, destination: Destination, events: Sequence[Event], id: str) -> Attempt:
        began = time.monotonic()
        receipt, error = None, None
        try:
            receipt = self._send(destination, events, id)
        except ApplianceError as exc:
            error = exc
        latency_ms = round((time.monotonic() - began) * 1000)
        log.log(
            logging.INFO if error is None else logging.WARNING,
            "A notification was delivered" if error is None else "A notification was not delivered",
            extra={
                "action": "notification_sent" if error is None else "notification_failed",
                "destination": destination.id,
                "message_id": id,
                "events": len(events),
                "ms": latency_ms,
                **({} if error is None else {"error": error.message}),
            },
        )
        return Attempt(latency_ms=latency_ms, receipt=receipt, error=error)

    def _record(self, due: Due, attempt: Attempt, context: JobContext) -> None:
        """Record an attempt, through a short outage of the store: what is not recorded is sent again."""
        for number in range(_STORE_TRIES):
            try:
                context.wait(self._deliveries.record(due, attempt))
            except OUTAGES:
                if number == _STORE_TRIES - 1 or context.stopping.wait(_STORE_WAIT_S):
                    raise
            else:
                return

    def _send(self, destination: Destination, events: Sequence[Event], id: str) -> Receipt:
        if destination.kind is DestinationKind.MAIL:
            if self._mail is None:
                raise DeliveryError("No mail can be sent: set mail.host and mail.sender.")
            message = compose(destination, events, self._teller, sender=self._mail.sender, at=self._now())
            return send_mail(message, self._mail, destination.address)
        return self._post(destination, events[0], id)

    def _post(self, destination: Destination, event: Event, id: str) -> Receipt:
        try:
            url, signing = self._destinations.url(destination), self._destinations.signing(destination)
        except InvalidSettings as exc:
            raise DeliveryError(exc.message) from exc
        allowed = destination.allow_private or self._policy.allow_private
        try:
            target = parse_url(url, self._policy, allow_private=allowed)
            if destination.format is WebhookFormat.TEMPLATE:
                content_type = destination.content_type
                body = render(destination.template, event, self._teller, content_type=content_type)
            else:
                content_type = "application/json"
                body = json_body(destination.format, event, self._teller)
        except ApplianceError as exc:  # what was fine when it was saved: the settings or the event are others
            raise DeliveryRefused(exc.message) from exc
        try:
            trust = self._trust() if target.tls else None
        except OSError as exc:
            raise DeliveryError(f"http.tls.ca_file cannot be read: {exc.strerror or exc}.") from exc
        headers = signature.headers(body, id=id, at=self._now(), signing=signing)
        return post(
            target,
            resolve(target, allow_private=allowed),
            body,
            {"Content-Type": content_type, **headers},
            trust=trust,
        )
