"""Earlier versions of packages whose bytes stay on this node for a while: which, and for how long."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from .errors import Conflict, InvalidInput, VersionUnknown
from .package import Package, PackageBody, Presence
from .record import TOMBSTONE_LIFE_MS

DAY_MS = 86_400_000
UNCLAIMED_MS = (
    DAY_MS  #: a file that nothing names stays for so long at least: its record may come from a peer
)
SHORTEST_PREFIX = 6  #: characters of a SHA-256 that may stand for all of it


class Why(StrEnum):
    """Why bytes are no longer served."""

    REPLACED = "replaced"  #: a newer file has the name
    WITHDRAWN = "withdrawn"  #: the package was withdrawn
    SUPERSEDED = "superseded"  #: a file whose author never saw this one won the name
    UNCLAIMED = "unclaimed"  #: nothing here names them: the database may be older than the files


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """Bytes that had a package's name on this node, and all that restoring them needs.

    Of its times only `begin` decides how long it stays. `at` is what the wall clock said, right or wrong, when it
    left. Its row has `clock` too, what the trash's own clock said then; `counted` is that by the wall clock of now.
    """

    package: str  #: package id; "" if nothing names these bytes
    sha256: str  #: hex
    filename: str
    size: int | None  #: bytes; None if it was kept by a program that did not note it
    revision: int  #: of the record under which they were served
    author: str  #: id of the node that wrote that record
    why: Why
    at: int  #: UTC milliseconds: since when they are in the trash, by the wall clock of then
    body: PackageBody | None = None  #: of that record; None if it was kept by a program that did not note it
    #: UTC milliseconds: since when its days count, by the wall clock of now; None: since `at`. Not in the row
    counted: int | None = field(default=None, compare=False)

    @property
    def id(self) -> str:
        """Its id in the store."""
        return version_id(self.package, self.sha256)

    @property
    def unclaimed(self) -> bool:
        """Whether it is a file that was found here, and that nothing names."""
        return not self.package

    @property
    def begin(self) -> int:
        """UTC milliseconds: since when its days count; compare it with the time for which it was read."""
        return self.at if self.counted is None else self.counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """How long versions are kept, and how many of each package."""

    days: float
    versions: int

    @property
    def off(self) -> bool:
        """Whether nothing is kept."""
        return not self.days or not self.versions

    def until(self, version: Version) -> int:
        """When a version expires, UTC milliseconds. One without a body keeps the 90 days that it was promised."""
        life = round(self.days * DAY_MS)
        if version.unclaimed:
            life = max(life, UNCLAIMED_MS)
        elif version.body is None:
            life = TOMBSTONE_LIFE_MS
        return version.begin + life

    @staticmethod
    def spare(version: Version, now: int) -> bool:
        """Whether a version may go before it expires, where the disk needs room."""
        return not version.unclaimed or version.begin + UNCLAIMED_MS <= now

    def surplus(self, versions: Sequence[Version], *, served: Collection[str], now: int) -> list[Version]:
        """Those that are to go, the oldest first: expired ones, and what is beyond the newest few of a package.

        Args:
            versions: All of them, or all of some packages.
            served: Ids of versions that are served still, while what replaces them arrives: those stay.
            now: UTC milliseconds.
        """
        found: list[Version] = []
        kept: dict[str, int] = {}
        for version in sorted(versions, key=lambda each: each.begin, reverse=True):
            if version.id in served:
                continue
            if version.unclaimed:
                if self.until(version) <= now:
                    found.append(version)
                continue
            number = kept[version.package] = kept.get(version.package, 0) + 1
            if self.off or number > self.versions or self.until(version) <= now:
                found.append(version)
        return found[::-1]


def version_id(package: str, sha256: str) -> str:
    """The id of a version in the store."""
    return f"{package}:{sha256}"


def restore_key(package: str, sha256: str) -> str:
    """The key of the job that restores a version."""
    return f"restore:{package}:{sha256}"


def unclaimed(sha256: str, size: int, *, at: int) -> Version:
    """A file that was found here at a time, and that nothing names."""
    return Version(
        package="", sha256=sha256, filename="", size=size, revision=0, author="", why=Why.UNCLAIMED, at=at
    )


def leaving(old: Package | None, view: Package, *, at: int) -> Version | None:
    """The version that ends when `old` becomes `view`: bytes whose record is no longer the newest, if they are here.

    They may be served a while longer, until what replaces them has arrived. Bytes that leave because of a stage or
    tag end no version: other nodes hold them. Bytes that were awaited may be on the disk all the same: they came a
    moment ago, or the database was put back to before they came.
    """
    if old is None or not (old.held_sha256 == old.body.sha256 or _is_awaited(old)):
        return None
    if view.withdrawn:
        why = Why.WITHDRAWN
    elif view.body.sha256 == old.body.sha256:
        return None
    elif old.body.sha256 in view.body.replaces:
        why = Why.REPLACED
    else:
        why = Why.SUPERSEDED
    return Version(
        package=old.id,
        sha256=old.body.sha256,
        filename=old.held_filename or old.body.filename,
        size=old.body.size,
        revision=old.revision,
        author=old.author,
        why=why,
        at=at,
        body=old.body,
    )


def _is_awaited(package: Package) -> bool:
    """Whether the newest bytes of a package are on their way here; what is damaged is not, and is no version."""
    return package.presence in {Presence.ARRIVING, Presence.WAITING}


def is_back(old: Package | None, view: Package) -> bool:
    """Whether bytes are served as the newest from now on that may have been in the trash until now."""
    if old is None:
        return not view.withdrawn and view.held_sha256 == view.body.sha256 and bool(view.body.replaces)
    return (
        not view.withdrawn
        and view.held_sha256 == view.body.sha256
        and (old.held_sha256, old.body.sha256) != (view.held_sha256, view.body.sha256)
        and (old.withdrawn or old.body.sha256 != view.body.sha256 or bool(view.body.replaces))
    )


def choose(package: Package, versions: Sequence[Version], wanted: str) -> Version:
    """The version that somebody wants to restore.

    Args:
        package: The package as it is now.
        versions: What the trash keeps of it.
        wanted: A SHA-256, its beginning, or a revision; "" is the version that left last.

    Raises:
        InvalidInput: Several versions fit.
        Conflict: It is the current version.
        VersionUnknown: The trash has no such version.
    """
    name = package.body.filename
    current = "" if package.withdrawn else package.body.sha256
    others = sorted((each for each in versions if each.sha256 != current), key=lambda each: -each.begin)
    text = wanted.strip().lower()
    if not text:
        fits = others[:1]
    else:
        fits = [each for each in others if str(each.revision) == text]
        if not fits and len(text) >= SHORTEST_PREFIX:
            fits = [each for each in others if each.sha256.startswith(text)]
    if len(fits) > 1:
        raise InvalidInput(f'"{wanted}" fits {len(fits)} versions of "{name}"; give more of the SHA-256.')
    if fits:
        return fits[0]
    if current and text and (text == str(package.revision) or _begins(current, text)):
        raise Conflict(f'There is nothing to restore: "{name}" has this version now.')
    raise VersionUnknown(
        (
            f'This node keeps no version "{wanted}" of "{name}". {_short(text)}'
            if text
            else f'This node keeps no earlier version of "{name}". '
        )
        + "Another node may: run `ods package versions` there. Else upload the file again."
    )


def _short(text: str) -> str:
    """What to give instead of a text that is too short for the beginning of a SHA-256."""
    if len(text) >= SHORTEST_PREFIX:
        return ""
    return f"Give a revision, or at least {SHORTEST_PREFIX} characters of a SHA-256. "


def _begins(sha256: str, text: str) -> bool:
    return len(text) >= SHORTEST_PREFIX and sha256.startswith(text)
