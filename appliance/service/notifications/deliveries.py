"""What is owed to destinations, and how it went: one row for each event and destination."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from appliance.domain.destination import (
    DeliveryState,
    Destination,
    DestinationKind,
    DestinationState,
    MailMode,
    advance_delivery,
)
from appliance.domain.errors import ApplianceError, Conflict, StaleRevision
from appliance.domain.event import Event, EventType
from appliance.domain.job import Job, RetryPolicy
from appliance.domain.moment import too_early
from appliance.domain.notify_errors import DeliveryUnknown, DestinationGone, DestinationUnknown
from appliance.jobs.new import new_job
from appliance.log import scrub
from appliance.service.events import event_of
from appliance.service.journal import SYSTEM, entry
from appliance.store.ports import Doc, Operation, Replace, Store

from .destinations import Destinations, destination_doc, destination_of
from .mailbox import QUIET_MS, next_due
from .webhook import Receipt
from .wording import one_line

SEND_JOB = "notifications.send"
QUEUE = "delivery"
#: 5 s, 10 s, 20 s ... up to 6 h: about three days, as the Standard Webhooks specification advises
RETRIES = RetryPolicy(attempts=24, base_s=5.0, cap_s=6 * 3600.0)
SUSPENDED_AFTER_MS = 3 * 24 * 3600 * 1000  #: of nothing but failures
DAY_MS = 24 * 3600 * 1000
DELIVERED_KEPT_MS = 30 * DAY_MS
FAILED_KEPT_MS = 90 * DAY_MS
OWED_MS = 30 * DAY_MS  #: what waits longer for a suspended destination has failed
LONGEST_WAIT_MS = DAY_MS  #: as a receiver may ask
MAX_ERROR = 300
_SET_BACK_MS = 1000  #: a clock that goes back by less than this was not set
_LETTER = 1000  #: events of one mail
_TRIES = 8
_PAGE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What goes to a destination in one piece: one event to a webhook, one or many to a mailbox."""

    destination: Destination
    rows: Sequence[Doc]
    events: Sequence[Event]  #: of the rows, oldest first; those that left the log are missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """How a piece went."""

    latency_ms: int
    receipt: Receipt | None = None  #: None: it failed
    error: ApplianceError | None = None


def send_job(destination: str, now: int) -> Job:
    """The job that sends what is due to a destination; one at a time for each."""
    return new_job(QUEUE, SEND_JOB, now, key=f"notify:{destination}", args={"destination": destination})


def first_due(destination: Destination, now: int) -> int:
    """When what happens now is first told to a destination, UTC milliseconds."""
    return next_due(destination, now) if destination.kind is DestinationKind.MAIL else now


def delivery_doc(event: Doc, destination: Destination, now: int) -> Doc:
    """The row of an event that is now owed to a destination."""
    return {
        "_id": f"{event['_id']}.{destination.id}",
        "destination": destination.id,
        "event": event["_id"],
        "seq": event["seq"],
        "type": event["type"],
        "subject": event["subject"],
        "state": str(DeliveryState.PENDING),
        "attempts": 0,
        "due_at": first_due(destination, now),
        "status": 0,
        "latency_ms": 0,
        "answer": "",
        "error": "",
        "created_at": now,
        "updated_at": now,
        "delivered_at": 0,
    }


class Deliveries:
    """Reads the rows, says what is due, and records how it went."""

    def __init__(
        self,
        *,
        store: Store,
        destinations: Destinations,
        now: Callable[[], int],
        jitter: Callable[[], float],
    ) -> None:
        self._store = store
        self._destinations = destinations
        self._now = now
        self._jitter = jitter

    # Looking

    async def page(self, where: Mapping[str, Any], *, limit: int, after: tuple[int, str] | None) -> list[Doc]:
        """Rows, the last changed first."""
        return await self._store.find(
            "deliveries", where, order="updated_at", descending=True, limit=limit, after=after
        )

    async def get(self, id: str) -> Doc:
        """One row.

        Raises:
            DeliveryUnknown: There is none.
        """
        doc = await self._store.get("deliveries", id)
        if doc is None:
            raise DeliveryUnknown(f"There is no delivery {id}; delivered ones are kept for 30 days.")
        return doc

    async def owed(self, destination: str) -> int:
        """How many wait."""
        return await self._store.count(
            "deliveries", {"destination": destination, "state": str(DeliveryState.PENDING)}
        )

    async def next_due(self, destination: Destination) -> int | None:
        """When the next row of a destination is due, UTC milliseconds; None if nothing waits or it is not sent to."""
        if destination.state is not DestinationState.ACTIVE:
            return None
        where = {"destination": destination.id, "state": str(DeliveryState.PENDING)}
        found = await self._store.find("deliveries", where, order="due_at", limit=1)
        if not found:
            return None
        wait = destination.not_before if self.waits(destination) else 0
        return max(int(found[0]["due_at"]), wait)

    def waits(self, destination: Destination) -> bool:
        """Whether nothing is sent to a destination for a while: it failed, or had something a moment ago."""
        longest = LONGEST_WAIT_MS if destination.failures else QUIET_MS
        return too_early(destination.not_before, self._now(), longest)

    # Sending

    async def due(self, id: str) -> Due | None:
        """What to send to a destination now, or None."""
        doc = await self._store.get("destinations", id)
        if doc is None:
            return None
        destination, now = destination_of(doc), self._now()
        if destination.state is not DestinationState.ACTIVE or self.waits(destination):
            return None
        where = {"destination": id, "state": str(DeliveryState.PENDING), "due_at": {"lte": now}}
        limit = _LETTER if destination.kind is DestinationKind.MAIL else 1
        rows = await self._store.find("deliveries", where, order="seq", limit=limit)
        if not rows:
            return None
        events: dict[int, Event] = {}
        for start in range(0, len(rows), _PAGE):
            seqs = [row["seq"] for row in rows[start : start + _PAGE]]
            for found in await self._store.find("events", {"seq": {"in": seqs}}, limit=len(seqs)):
                events[found["seq"]] = event_of(found)
        return Due(destination=destination, rows=rows, events=[events[seq] for seq in sorted(events)])

    async def record(self, due: Due, attempt: Attempt) -> None:
        """Record how it went, for the rows and for the destination, in one write."""
        rows = list(due.rows)
        for number in range(_TRIES):
            doc = await self._store.get("destinations", due.destination.id)
            if doc is None:
                return  # removed meanwhile, with its rows
            destination = destination_of(doc)
            new, further = self._health(destination, attempt)
            operations: list[Operation] = [
                Replace("deliveries", self._outcome(row, attempt), row["_rev"]) for row in rows
            ]
            operations.append(Replace("destinations", destination_doc(new), doc["_rev"]))
            try:
                await self._store.batch([*operations, *further])
            except StaleRevision:
                if number == _TRIES - 1:
                    raise
                rows = await self._again(rows)
            else:
                return

    async def _again(self, rows: Sequence[Doc]) -> list[Doc]:
        """The rows as they are now, without those that somebody else has settled."""
        found = [await self._store.get("deliveries", row["_id"]) for row in rows]
        return [row for row in found if row is not None and row["state"] == DeliveryState.PENDING]

    def _outcome(self, row: Doc, attempt: Attempt) -> Doc:
        now, attempts = self._now(), row["attempts"] + 1
        new = {
            **row,
            "attempts": attempts,
            "updated_at": now,
            "latency_ms": attempt.latency_ms,
            "error": "",
            "answer": "",
            "status": 0,
        }
        if attempt.receipt is not None:
            state = DeliveryState.DELIVERED
            new |= {
                "status": attempt.receipt.status,
                "answer": attempt.receipt.answer,
                "delivered_at": now,
            }
        else:
            error = attempt.error
            assert error is not None
            details = error.details
            new |= {
                "status": details.get("status", 0),
                "answer": details.get("answer", ""),
                "error": one_line(scrub(error.message), MAX_ERROR),
            }
            kept = error.retryable or isinstance(error, DestinationGone)
            if kept and attempts < RETRIES.attempts:
                state = DeliveryState.PENDING
                new["due_at"] = now + self._wait_ms(attempts, error)
            else:
                state = DeliveryState.FAILED
        new["state"] = str(advance_delivery(DeliveryState(row["state"]), state))
        return new

    def _health(self, old: Destination, attempt: Attempt) -> tuple[Destination, list[Operation]]:
        """The destination after an attempt, and what to log."""
        now = self._now()
        if attempt.receipt is not None:
            mail = old.kind is DestinationKind.MAIL and old.mode is MailMode.IMMEDIATE
            return dataclasses.replace(
                old,
                failures=0,
                failing_since=0,
                not_before=now + QUIET_MS if mail else 0,
                last_error="",
                last_success=now,
            ), []
        error = attempt.error
        assert error is not None
        told = one_line(scrub(error.message), MAX_ERROR)
        gone = isinstance(error, DestinationGone)
        if not error.retryable and not gone:
            return dataclasses.replace(
                old, last_error=told
            ), []  # the notification is at fault, not the receiver
        since = old.failing_since or now
        new = dataclasses.replace(
            old,
            failures=old.failures + 1,
            failing_since=since,
            not_before=now + self._wait_ms(old.failures + 1, error),
            last_error=told,
        )
        if old.state is not DestinationState.ACTIVE or not (gone or now - since >= SUSPENDED_AFTER_MS):
            return new, []
        event = entry(
            EventType.DESTINATION_SUSPENDED,
            at=now,
            actor=SYSTEM,
            subject=old.id,
            name=old.name,
            kind=str(old.kind),
            failures=new.failures,
            error=told,
        )
        return dataclasses.replace(new, state=DestinationState.SUSPENDED), [event]

    def _wait_ms(self, failures: int, error: ApplianceError) -> int:
        asked = error.details.get("retry_after")
        wait = RETRIES.wait(failures, self._jitter)
        return round(max(wait, asked if isinstance(asked, int | float) else 0.0) * 1000)

    # Changing

    async def resend(self, id: str) -> Doc:
        """Send a delivery again now, whatever became of it.

        Raises:
            DeliveryUnknown: There is none.
            Conflict: Its destination was removed or is not sent to.
        """
        for number in range(_TRIES):
            row = await self.get(id)
            try:
                destination = await self._destinations.get(row["destination"])
            except DestinationUnknown as exc:
                raise Conflict("The destination was removed.") from exc
            if destination.state is not DestinationState.ACTIVE:
                raise Conflict(
                    f'The destination "{destination.name}" is {destination.state}; enable it first.'
                )
            now = self._now()
            state = advance_delivery(DeliveryState(row["state"]), DeliveryState.PENDING)
            new = {**row, "state": str(state), "attempts": 0, "due_at": now, "updated_at": now, "error": ""}
            try:
                await self._store.batch(
                    [Replace("deliveries", new, row["_rev"]), *await self._soon(destination, now)]
                )
            except StaleRevision:
                if number == _TRIES - 1:
                    raise
            else:
                break
        await self._store.enqueue(send_job(row["destination"], self._now()))
        return await self.get(id)

    async def _soon(self, destination: Destination, now: int) -> list[Operation]:
        """A person does not wait for the end of a back-off."""
        if destination.not_before <= now:
            return []
        doc = await self._store.get("destinations", destination.id)
        if doc is None:
            return []
        new = dataclasses.replace(destination_of(doc), not_before=now)
        return [Replace("destinations", destination_doc(new), doc["_rev"])]

    async def hasten(self, destination: str) -> None:
        """Make what failed before due at once: the destination is known to work again."""
        now = self._now()
        where = {"destination": destination, "state": str(DeliveryState.PENDING), "due_at": {"gt": now}}
        for row in await self._store.find("deliveries", where, order="due_at", limit=10_000):
            if row["attempts"]:
                with contextlib.suppress(StaleRevision):  # it is on its way
                    await self._store.replace("deliveries", {**row, "due_at": now}, expect=row["_rev"])

    async def put_off_again(self) -> None:
        """Let what was put off while the clock was ahead wait from now, and no longer than was meant."""
        now = self._now()
        ahead = {"state": str(DeliveryState.PENDING), "updated_at": {"gt": now + _SET_BACK_MS}}
        for row in await self._store.find("deliveries", ahead, limit=10_000):
            doc = await self._store.get("destinations", row["destination"])
            if doc is None:
                continue
            destination = destination_of(doc)
            left = max(0, row["due_at"] - row["updated_at"])
            due_at = now + left if row["attempts"] else first_due(destination, now)
            operations: list[Operation] = [
                Replace(
                    "deliveries",
                    {**row, "due_at": min(row["due_at"], due_at), "updated_at": now},
                    row["_rev"],
                )
            ]
            with contextlib.suppress(StaleRevision):  # it is on its way
                await self._store.batch([*operations, *await self._soon(destination, now)])

    async def purge(self) -> None:
        """Delete old rows; give up on what has waited for a month."""
        now = self._now()
        await self.put_off_again()
        for state, kept in (
            (DeliveryState.DELIVERED, DELIVERED_KEPT_MS),
            (DeliveryState.FAILED, FAILED_KEPT_MS),
        ):
            await self._store.delete("deliveries", {"state": str(state), "updated_at": {"lt": now - kept}})
        there = {destination.id for destination in await self._destinations.all()}
        old = {"state": str(DeliveryState.PENDING), "updated_at": {"lt": now - OWED_MS}}
        while rows := await self._store.find("deliveries", old, limit=_PAGE):
            for row in rows:
                if row["destination"] not in there:
                    await self._store.delete("deliveries", {"_id": row["_id"]})
                    continue
                state = advance_delivery(DeliveryState(row["state"]), DeliveryState.FAILED)
                error = "It waited for 30 days while the destination was not sent to."
                try:
                    await self._store.replace(
                        "deliveries",
                        {**row, "state": str(state), "updated_at": now, "error": error},
                        expect=row["_rev"],
                    )
                except StaleRevision:
                    continue  # somebody sends it after all
