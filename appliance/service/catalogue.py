"""Every package as this node sees it, in memory.

Downloads and lists read here and nowhere else, so they go on while the database is down. The truth is the
`packages` collection: this process changes both together, and what other processes change is read within a second.

A copy in memory bears the write counter and the time of its row. A row whose counter is not above the copy's and that
is another all the same was deleted and made anew: it counts.
"""

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from appliance.domain.errors import InvalidName, PackageUnknown, WireInvalid
from appliance.domain.names import check_filename, package_id
from appliance.domain.package import Package, Presence
from appliance.peering.record_bodies import parse_package_body
from appliance.store.paging import every
from appliance.store.ports import Doc, Store

log = logging.getLogger(__name__)

_SLACK_MS = 60_000


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _elapsed_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def package_doc(package: Package, now: int) -> Doc:
    """The document that keeps this node's view of a package."""
    body = package.body
    doc = _fields(package)
    doc["_id"] = doc.pop("id")
    return {
        **doc,
        "body": {**_fields(body), "tags": list(body.tags), "replaces": list(body.replaces)},
        "presence": str(package.presence),
        "filename": body.filename,
        "stage": body.stage,
        "changed_at": now,
    }


def _fields(value: Any) -> Doc:
    """The fields of a dataclass, shared with it: `asdict` copies each value and takes five times as long (measured)."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


def package_from(doc: Doc) -> Package:
    """The package that a document keeps.

    Raises:
        WireInvalid: It is none: something else wrote it.
    """
    try:
        package = Package(
            id=doc["_id"],
            revision=doc["revision"],
            author=doc["author"],
            at=doc["at"],
            withdrawn=doc["withdrawn"],
            body=parse_package_body(doc["body"]),
            presence=Presence(doc["presence"]),
            reason=doc["reason"],
            held_sha256=doc["held_sha256"],
            held_filename=doc["held_filename"],
            wanted_since=doc.get("wanted_since", 0),
            retry_at=doc.get("retry_at", 0),
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise WireInvalid(f"The view of a package cannot be read: {exc!r:.200}") from exc
    texts = (package.author, package.reason, package.held_sha256, package.held_filename)
    numbers = (package.revision, package.at, package.wanted_since, package.retry_at)
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(one, int) for one in numbers):
        raise WireInvalid("The view of a package has a field of another type.")
    return package


def _row(doc: Doc) -> tuple[int, int]:
    """What tells a row from earlier and from other rows of its id."""
    return doc["_rev"], doc.get("changed_at") or 0


class Catalogue:
    """The packages of this node by id and by file name."""

    def __init__(self, store: Store, *, now: Callable[[], int] = _wall_ms) -> None:
        """Make one that knows nothing yet.

        Args:
            store: Where the views are kept.
            now: UTC milliseconds, by the clock of this node's processes.
        """
        self._store = store
        self._now = now
        self._by_id: dict[str, Package] = {}
        self._by_name: dict[str, str] = {}
        self._rows: dict[str, tuple[int, int]] = {}  #: write counter and time of each row that was read
        self._changed_at = 0
        self._loaded = _elapsed_ms()  #: when the last look at the store began
        self._skipped: set[str] = set()  #: views that cannot be read

    async def load(self) -> None:
        """Read what is new in the store since the last call; at first: everything."""
        began, now = _elapsed_ms(), self._now()
        windows = [{"gte": self._changed_at - _SLACK_MS}]
        if self._changed_at > now:  # the clock was set back: what is written now has an earlier time
            windows.append({"gte": now - (began - self._loaded) - _SLACK_MS, "lte": now + _SLACK_MS})
        for window in windows:
            async for doc in every(self._store, "packages", {"changed_at": window}, order="changed_at"):
                await self._take_over(doc)
                self._changed_at = max(self._changed_at, doc["changed_at"])
        known = list(self._rows)
        if await self._store.count("packages") < len(known):
            await self._drop_deleted(known)
        self._loaded = began

    async def _take_over(self, doc: Doc) -> None:
        """Take over a row that another process may have written."""
        id, known = doc["_id"], self._rows.get(doc["_id"])
        if known is not None and doc["_rev"] <= known[0]:
            if known != _row(doc):  # it was made anew, or is older than what was written here meanwhile
                await self.refresh(id)
            return
        try:
            self.take(doc)
        except WireInvalid as exc:
            self._skip(doc, exc)

    async def _drop_deleted(self, known: list[str]) -> None:
        """Drop the packages whose rows another process deleted."""
        there = {doc["_id"] async for doc in every(self._store, "packages")}
        for id in known:
            if id not in there:
                await self.refresh(id)

    async def refresh(self, id: str) -> Package | None:
        """Read one package from the store: what a job decides about must not be a copy that another process outran."""
        known = self._rows.get(id)
        doc = await self._store.get("packages", id)
        if self._rows.get(id) != known:
            return self._by_id.get(id)  # this process wrote it meanwhile
        if doc is None or (known is not None and doc["_rev"] <= known[0] and known != _row(doc)):
            self.forget(id)
        if doc is not None:
            try:
                self.take(doc)
            except WireInvalid as exc:
                self._skip(doc, exc)
        return self._by_id.get(id)

    def _skip(self, doc: Doc, error: WireInvalid) -> None:
        """An odd view must not hide the others; a start makes it again from the record. Said once."""
        id = doc["_id"]
        if id not in self._by_id:
            self._rows[id] = _row(doc)
        if id not in self._skipped:
            self._skipped.add(id)
            log.error(error.message, extra={"action": "package_skipped", "package": id[:200]})

    def take(self, doc: Doc) -> Package:
        """Take over a stored view of a package, unless a newer one is here."""
        old = self._by_id.get(doc["_id"])
        if old is not None and self._rows[old.id][0] >= doc["_rev"]:
            return old
        package = package_from(doc)
        if old is not None:
            self._drop_names(old)
        self._by_id[package.id] = package
        self._rows[package.id] = _row(doc)
        for name in (package.held_filename, package.body.filename):
            if name:
                self._by_name[name] = package.id
        return package

    def _drop_names(self, package: Package) -> None:
        for name in (package.held_filename, package.body.filename):
            if self._by_name.get(name) == package.id:
                del self._by_name[name]

    def rev(self, id: str) -> int:
        """The write counter of this view in the store, 0 if there is none: what a replacement must expect."""
        return self._rows.get(id, (0, 0))[0]

    def forget(self, id: str) -> None:
        """Drop a package whose row was deleted."""
        self._rows.pop(id, None)
        package = self._by_id.pop(id, None)
        if package is not None:
            self._drop_names(package)

    def by_id(self, id: str) -> Package | None:
        """The package of this id."""
        return self._by_id.get(id)

    def shows(self, doc: Doc) -> bool:
        """Whether the view of a package is that of the stored record of it."""
        record, package = doc.get("record"), self._by_id.get(str(doc.get("record_id")))
        if package is None or not isinstance(record, dict):
            return False
        told = (record.get("revision"), record.get("author"), record.get("at"))
        return told == (package.revision, package.author, package.at)

    def by_filename(self, filename: str) -> Package | None:
        """The package that has, or is still served under, exactly this name (NFC)."""
        return self._by_id.get(self._by_name.get(filename, ""))

    def named(self, name: str) -> Package | None:
        """The package of this name: names that differ in case only, or in their Unicode form, are one package."""
        found = self.by_filename(name)
        if found is None:
            with contextlib.suppress(InvalidName):
                found = self._by_id.get(package_id(check_filename(name)))
        return found

    def resolve(self, id_or_filename: str) -> Package:
        """The package of this id or file name.

        Raises:
            PackageUnknown: There is none.
        """
        package = self.by_id(id_or_filename) or self.named(id_or_filename)
        if package is None:
            raise PackageUnknown(f'There is no package "{id_or_filename}" here.')
        return package

    def all(self) -> list[Package]:
        """Every package, withdrawn ones included, in no order."""
        return list(self._by_id.values())

    def held_names(self) -> dict[str, str]:
        """The public file names of held packages, and the SHA-256 that each must show."""
        return {package.held_filename: package.held_sha256 for package in self.all() if package.held_sha256}

    def holders(self, sha256: str) -> list[str]:
        """The ids of packages that are served from these bytes here."""
        return [package.id for package in self._by_id.values() if package.held_sha256 == sha256]
