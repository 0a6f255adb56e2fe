"""The destinations of this node: made, changed, removed; every change is in the log, no secret is."""

import dataclasses
import secrets
import zoneinfo
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from typing import Any

from appliance.domain.destination import (
    TEST_EVENT,
    Destination,
    DestinationKind,
    DestinationState,
    MailMode,
    WebhookFormat,
    check_events,
)
from appliance.domain.errors import Conflict, DuplicateKey, InvalidInput, StaleRevision
from appliance.domain.event import EventType
from appliance.domain.notify_errors import DestinationExists, DestinationUnknown
from appliance.service.journal import SYSTEM, entry
from appliance.service.secrets import SecretBox
from appliance.store.ports import Doc, Insert, Operation, Remove, Replace, Store

from . import signature
from .addresses import Policy, parse_url
from .bodies import Teller
from .mailbox import check_address
from .template import check_template, sample

MAX_DESTINATIONS = 50
OVERLAP_MS = 24 * 3600 * 1000  #: after a rotation the old secret signs so much longer
_TRIES = 8
_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"

#: from a destination to the new one, and further operations of the same write
Edit = Callable[[Destination], Awaitable[tuple[Destination, list[Operation]]]]

#: what an admin may set, with the kind of destination that it belongs to
_OF_WEBHOOKS = {"format", "url", "template", "content_type", "allow_private"}
_OF_MAIL = {"address", "mode", "hour", "zone"}


def destination_doc(destination: Destination) -> Doc:
    """The document of a destination."""
    doc = {name: value for name, value in dataclasses.asdict(destination).items() if name != "id"}
    plain = {name: str(doc[name]) for name in ("kind", "state", "format", "mode")}
    return {"_id": destination.id, **doc, **plain, "events": list(destination.events)}


def destination_of(doc: Mapping[str, Any]) -> Destination:
    """The destination of a document."""
    names = {field.name for field in dataclasses.fields(Destination)} - {"id"}
    values = {name: value for name, value in doc.items() if name in names}
    values |= {
        "kind": DestinationKind(doc["kind"]),
        "state": DestinationState(doc["state"]),
        "format": WebhookFormat(doc["format"]),
        "mode": MailMode(doc["mode"]),
        "events": tuple(doc["events"]),
    }
    return Destination(id=doc["_id"], **values)


class Destinations:
    """Where this node's notifications go."""

    def __init__(
        self,
        *,
        store: Store,
        box: SecretBox,
        policy: Policy,
        teller: Teller,
        mail_is_set_up: bool,
        now: Callable[[], int],
    ) -> None:
        """Make the list.

        Args:
            store: Where they are kept.
            box: Seals URLs and secrets.
            policy: What the settings allow.
            teller: This node, for trying templates.
            mail_is_set_up: Whether there is a mail server.
            now: UTC milliseconds.
        """
        self._store = store
        self._box = box
        self._policy = policy
        self._teller = teller
        self._mail_is_set_up = mail_is_set_up
        self._now = now

    async def all(self) -> list[Destination]:
        """Every destination, by name."""
        docs = await self._store.find("destinations", order="name", limit=10 * MAX_DESTINATIONS)
        return [destination_of(doc) for doc in docs]

    async def by_id(self) -> dict[str, Destination]:
        """Every destination by its id."""
        return {each.id: each for each in await self.all()}

    async def get(self, id: str) -> Destination:
        """One destination.

        Raises:
            DestinationUnknown: There is none.
        """
        return destination_of(await self._doc(id))

    async def add(self, given: Mapping[str, Any], *, actor: str) -> tuple[Destination, str]:
        """Make a destination.

        Args:
            given: `name`, `kind`, `events`, `enabled`; for webhooks `format`, `url`, `template`, `content_type`,
                `allow_private`; for mail `address`, `mode`, `hour`, `zone`. What is absent has its default.
            actor: Who asks.

        Returns:
            The destination, and the secret that signs its webhooks, which is shown only now; "" for mail.

        Raises:
            InvalidInput: Something in it cannot be used.
            DestinationExists: The name is taken.
            Conflict: There are too many.
        """
        kind = DestinationKind(given["kind"])
        if kind is DestinationKind.MAIL and not self._mail_is_set_up:
            raise InvalidInput(
                "No mail can be sent: set mail.host and mail.sender, and start the node again."
            )
        if await self._store.count("destinations") >= MAX_DESTINATIONS:
            raise Conflict(f"There are {MAX_DESTINATIONS} destinations; remove one first.")
        now = self._now()
        blank = Destination(
            id="".join(secrets.choice(_ALPHABET) for _ in range(8)),
            name="",
            kind=kind,
            events=("*",),
            from_seq=await self._store.last_sequence("events"),
            created_at=now,
            changed_at=now,
        )
        secret = signature.new_secret() if kind is DestinationKind.WEBHOOK else ""
        if secret:
            if not given.get("url"):
                raise InvalidInput("A webhook needs its url.")
            blank = dataclasses.replace(blank, secret_sealed=self._box.seal(secret.encode()))
        made = self._with(blank, given)
        await self._write(
            made.name,
            [
                Insert("destinations", destination_doc(made)),
                self._entry(EventType.DESTINATION_ADDED, made, actor),
            ],
        )
        return made, secret

    async def change(
        self, id: str, given: Mapping[str, Any], *, actor: str, expect: int | None = None
    ) -> Destination:
        """Change a destination; `enabled` true also resumes a suspended one.

        Args:
            id: Of the destination.
            given: As for `add`, without `kind`; what is absent stays.
            actor: Who asks.
            expect: The version that was seen; None changes any.

        Raises:
            DestinationUnknown: There is none.
            StaleRevision: It is at another version.
            InvalidInput: Something cannot be used.
            DestinationExists: The name is taken.
        """

        async def edit(old: Destination) -> tuple[Destination, list[Operation]]:
            if expect is not None and old.version != expect:
                raise StaleRevision("Somebody else changed this destination first; read it again.")
            new = dataclasses.replace(self._with(old, given), version=old.version + 1, changed_at=self._now())
            if old.state is DestinationState.DISABLED and new.state is DestinationState.ACTIVE:
                new = dataclasses.replace(new, from_seq=await self._store.last_sequence("events"))
            if new.state is DestinationState.ACTIVE or "url" in given or "address" in given:
                new = dataclasses.replace(new, failures=0, failing_since=0, not_before=0, last_error="")
            return new, [
                self._entry(
                    EventType.DESTINATION_CHANGED, new, actor, fields=sorted(given), **_differences(old, new)
                )
            ]

        return await self.edit(id, edit)

    async def rotate(self, id: str, *, actor: str) -> tuple[Destination, str]:
        """Give a webhook a new secret; for a day both the old and the new one sign.

        Returns:
            The destination, and the new secret, which is shown only now.

        Raises:
            DestinationUnknown: There is none.
            InvalidInput: It is a mailbox, which has no secret.
        """
        secret = signature.new_secret()

        async def edit(old: Destination) -> tuple[Destination, list[Operation]]:
            if old.kind is not DestinationKind.WEBHOOK:
                raise InvalidInput("A mailbox has no secret.")
            new = dataclasses.replace(
                old,
                secret_sealed=self._box.seal(secret.encode()),
                old_secret_sealed=old.secret_sealed,
                old_secret_until=self._now() + OVERLAP_MS,
                version=old.version + 1,
                changed_at=self._now(),
            )
            return new, [self._entry(EventType.DESTINATION_CHANGED, new, actor, fields=["secret"])]

        return await self.edit(id, edit), secret

    async def remove(self, id: str, *, expect: int | None = None, actor: str) -> None:
        """Remove a destination with what is owed to it.

        Raises:
            DestinationUnknown: There is none.
            StaleRevision: It is at another version than `expect`.
        """
        for attempt in range(_TRIES):
            doc = await self._doc(id)
            gone = destination_of(doc)
            if expect is not None and gone.version != expect:
                raise StaleRevision("Somebody else changed this destination first; read it again.")
            event = self._entry(EventType.DESTINATION_REMOVED, gone, actor)
            try:
                await self._store.batch([Remove("destinations", id, doc["_rev"]), event])
            except StaleRevision:
                if attempt == _TRIES - 1:
                    raise
            else:
                break
        await self._store.delete("deliveries", {"destination": id})

    async def succeeded(self, id: str) -> None:
        """A test went through: it is well again, and sent to if it was suspended.

        Raises:
            DestinationUnknown: There is none.
        """

        async def edit(old: Destination) -> tuple[Destination, list[Operation]]:
            new = dataclasses.replace(
                old, failures=0, failing_since=0, not_before=0, last_error="", last_success=self._now()
            )
            if old.state is not DestinationState.SUSPENDED:
                return new, []
            new = dataclasses.replace(new, state=DestinationState.ACTIVE)
            return new, [self._entry(EventType.DESTINATION_RESUMED, new, SYSTEM)]

        await self.edit(id, edit)

    async def edit(self, id: str, change: Edit) -> Destination:
        """Read, change and write one destination until nobody writes in between.

        Args:
            id: Of the destination.
            change: What to make of it.

        Raises:
            DestinationUnknown: There is none.
            StaleRevision: Others wrote in between all the time.
        """
        for attempt in range(_TRIES):
            doc = await self._doc(id)
            new, further = await change(destination_of(doc))
            try:
                await self._write(
                    new.name, [Replace("destinations", destination_doc(new), doc["_rev"]), *further]
                )
            except StaleRevision:
                if attempt == _TRIES - 1:
                    raise
            else:
                break
        return new

    def url(self, destination: Destination) -> str:
        """The whole URL of a webhook; for its sender only."""
        return self._box.open(destination.url_sealed).decode()

    def signing(self, destination: Destination) -> list[str]:
        """The secrets that sign now, the newest first; for the sender only."""
        sealed = [destination.secret_sealed]
        if destination.old_secret_sealed and destination.old_secret_until > self._now():
            sealed.append(destination.old_secret_sealed)
        return [self._box.open(each).decode() for each in sealed]

    # Checks

    def _with(self, old: Destination, given: Mapping[str, Any]) -> Destination:
        """`old` with what is given, checked as a whole."""
        foreign = (_OF_MAIL if old.kind is DestinationKind.WEBHOOK else _OF_WEBHOOKS) & set(given)
        if foreign:
            raise InvalidInput(f"A destination of the kind {old.kind} has no {', '.join(sorted(foreign))}.")
        plain = {name: given[name] for name in given if name not in {"kind", "enabled", "url", "events"}}
        if "format" in plain:
            plain["format"] = WebhookFormat(plain["format"])
        if "mode" in plain:
            plain["mode"] = MailMode(plain["mode"])
        new = dataclasses.replace(old, **plain)
        if not 0 < len(new.name) <= 100 or not new.name.isprintable() or new.name != new.name.strip():
            raise InvalidInput("A destination has a name of 1 to 100 printable characters.")
        if "events" in given:
            new = dataclasses.replace(new, events=check_events(given["events"]))
        if "enabled" in given:
            state = DestinationState.ACTIVE if given["enabled"] else DestinationState.DISABLED
            new = dataclasses.replace(new, state=state)
        return self._webhook(new, given) if new.kind is DestinationKind.WEBHOOK else _mail(new)

    def _webhook(self, new: Destination, given: Mapping[str, Any]) -> Destination:
        url = str(given.get("url") or "") or self.url(new)
        target = parse_url(url, self._policy, allow_private=new.allow_private)
        if new.format is WebhookFormat.TEMPLATE:
            if not new.content_type.isascii() or not new.content_type.isprintable():
                raise InvalidInput("The content type is not one such as application/json.")
            check_template(new.template, self._samples(), self._teller, content_type=new.content_type)
        elif new.template:
            raise InvalidInput('A template is used with the format "template" only.')
        if "url" in given:
            new = dataclasses.replace(new, url_sealed=self._box.seal(url.encode()), shown_url=target.shown)
        return new

    def _samples(self) -> list[Any]:
        data = {"filename": "Example-1.0.pkg", "size": 1, "sha256": "0" * 64, "stage": "prod"}
        now = self._now()
        return [sample(now, TEST_EVENT, "test", {}), sample(now, EventType.PACKAGE_PUBLISHED, "x" * 32, data)]

    # Writing

    async def _doc(self, id: str) -> Doc:
        doc = await self._store.get("destinations", id)
        if doc is None:
            raise DestinationUnknown(f"There is no destination {id}.")
        return doc

    async def _write(self, name: str, operations: list[Operation]) -> None:
        try:
            await self._store.batch(operations)
        except DuplicateKey:
            raise DestinationExists(f'There is a destination "{name}" already.') from None

    def _entry(self, type: EventType, destination: Destination, actor: str, **data: Any) -> Insert:
        return entry(
            type,
            at=self._now(),
            actor=actor,
            subject=destination.id,
            name=destination.name,
            kind=str(destination.kind),
            events=list(destination.events),
            state=str(destination.state),
            **data,
        )


_LOGGED = (
    "name", "events", "state", "format", "shown_url", "template", "content_type", "allow_private", "address", "mode",
    "hour", "zone",
)  # fmt: skip


def _differences(old: Destination, new: Destination) -> dict[str, dict[str, Any]]:
    """What a change changed, as "before" and "after"; of a URL that is sealed only what is shown."""

    def plain(value: Any) -> Any:
        return (
            list(value) if isinstance(value, tuple) else str(value) if isinstance(value, StrEnum) else value
        )

    names = [name for name in _LOGGED if getattr(old, name) != getattr(new, name)]
    sides = {
        side: {name.removeprefix("shown_"): plain(getattr(of, name)) for name in names}
        for side, of in (("before", old), ("after", new))
    }
    if old.url_sealed != new.url_sealed and "url" not in sides["after"]:
        sides["before"]["url"], sides["after"]["url"] = (
            old.shown_url,
            f"{new.shown_url}, another address there",
        )
    return sides if sides["after"] else {}


def _mail(new: Destination) -> Destination:
    address = check_address(new.address)
    if not 0 <= new.hour <= 23:
        raise InvalidInput("The hour of a digest is 0 to 23.")
    try:
        zoneinfo.ZoneInfo(new.zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidInput(
            f'There is no time zone "{new.zone[:60]}"; zones are called as Europe/Berlin is.'
        ) from None
    return dataclasses.replace(new, address=address)
