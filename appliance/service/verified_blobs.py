"""Which blobs this node has verified, and how their files looked then: by this a change is seen without reading.

In memory beside the store, so that downloads are checked while the database is down. Other processes of the node write
too, so what does not fit is read again before it is believed.
"""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from appliance.domain.errors import OUTAGES
from appliance.domain.event import EventType
from appliance.domain.moment import written_ahead
from appliance.domain.package import Package, Presence
from appliance.store.blobs import BlobStore, Stamp
from appliance.store.paging import every
from appliance.store.ports import Doc, Operation, Remove, Replace, Store

from .catalogue import Catalogue, package_doc
from .journal import SYSTEM, entry
from .public_names import show

_SLACK_MS = 60_000  #: other processes write what they verified a while after they did


@dataclass(frozen=True, slots=True)
class Verified:
    """A blob that was verified."""

    stamp: Stamp  #: its file at that time
    at: int  #: UTC milliseconds; 0 for one that was here before anything was noted, and is to be verified first


class VerifiedBlobs:
    """What is known of the blobs of this node. `remember` and `fits` may be called from any thread."""

    def __init__(
        self, *, store: Store, blobs: BlobStore, catalogue: Catalogue, now: Callable[[], int]
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._catalogue = catalogue
        self._now = now
        self._known: dict[str, Verified] = {}
        self._bad: dict[str, Stamp] = {}  #: damaged files that could not be set aside

    async def load(self) -> None:
        """Read all of it from the store."""
        async for doc in every(self._store, "verified"):
            self._take(doc)

    async def refresh(self) -> None:
        """Read what was verified since the last time; cheap enough for every look at a page."""
        now = self._now()
        newest = max(
            (at for known in self.all().values() if not written_ahead(at := known.at, now)), default=0
        )
        since = (newest - _SLACK_MS, "")
        async for doc in every(self._store, "verified", order="verified_at", after=since):
            self._take(doc)

    def _take(self, doc: Doc) -> None:
        """Take over what is stored, unless something newer is known here that is about to be."""
        sha256, stored = doc["_id"], _verified(doc)
        known = self._known.get(sha256)
        if known is None or known.at <= stored.at or written_ahead(known.at, self._now()):
            self._known[sha256] = stored

    def get(self, sha256: str) -> Verified | None:
        """What is known here and now."""
        return self._known.get(sha256)

    def all(self) -> dict[str, Verified]:
        """All that is known here and now, by SHA-256: a copy, since other threads remember more meanwhile."""
        return dict(self._known)

    def fits(self, sha256: str, stamp: Stamp) -> bool:
        """Whether a file is the one that was verified, as far as it is known here and now."""
        known = self._known.get(sha256)
        return known is not None and known.stamp.unchanged(stamp)

    async def trusted(self, sha256: str, stamp: Stamp) -> bool:
        """As `fits`; what other processes of this node verified counts too."""
        if self.fits(sha256, stamp):
            return True
        with contextlib.suppress(*OUTAGES):
            doc = await self._store.get("verified", sha256)
            if doc is not None:
                self._take(doc)
        return self.fits(sha256, stamp)

    def remember(self, sha256: str, stamp: Stamp, *, at: int | None = None) -> Replace:
        """Know from now on that a file was verified; the write that keeps it."""
        known = self._known[sha256] = Verified(stamp, self._now() if at is None else at)
        return Replace(
            "verified",
            {
                "_id": sha256,
                "size": stamp.size,
                "mtime_ns": str(stamp.mtime_ns),  # texts: files may bear numbers that no database has
                "inode": str(stamp.inode),
                "verified_at": known.at,
            },
        )

    def forget(self, sha256: str) -> Remove:
        """Know nothing of a blob any more; the write that makes it last."""
        self._known.pop(sha256, None)
        return Remove("verified", sha256)

    def remember_bad(self, sha256: str, stamp: Stamp) -> None:
        """Know that a file is damaged that is where it was."""
        self._bad[sha256] = stamp

    def known_bad(self, sha256: str, stamp: Stamp) -> bool:
        """Whether a file is one that was found damaged, and need not be read again."""
        return self._bad.get(sha256) == stamp

    async def relink(self, sha256: str) -> None:
        """Let every public name of a blob show it: another file took its place."""
        for id in self._catalogue.holders(sha256):
            await show(self._catalogue, self._blobs, id, again=True)


def _verified(doc: Doc) -> Verified:
    return Verified(Stamp(doc["size"], int(doc["mtime_ns"]), int(doc["inode"])), doc["verified_at"])


def damage(package: Package, rev: int, reason: str, now: int) -> list[Operation]:
    """What is written when the file that a package is served from is damaged; the package's view comes first.

    Args:
        package: The package.
        rev: The revision of its document.
        reason: What was found.
        now: UTC milliseconds.
    """
    view = replace(package, presence=Presence.DAMAGED, reason=reason, held_sha256="", held_filename="")
    return [
        Replace("packages", package_doc(view, now), rev),
        *damage_noted([package], package.held_sha256, reason, now),
    ]


def damage_noted(packages: Iterable[Package], sha256: str, reason: str, now: int) -> list[Operation]:
    """What is written when a file is damaged that packages are served from, or were about to be."""
    events = (
        entry(
            EventType.PACKAGE_DAMAGED,
            at=now,
            actor=SYSTEM,
            subject=package.id,
            filename=package.body.filename,
            sha256=sha256,
            reason=reason,
        )
        for package in packages
    )
    return [
        Replace("damaged", {"_id": sha256, "at": now, "reason": reason, "repaired_at": 0}),
        Remove("verified", sha256),
        *events,
    ]
