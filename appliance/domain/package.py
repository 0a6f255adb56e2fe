"""Packages and replicas: what a node knows of an installer file, and whether it holds the bytes."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from .errors import InvalidInput

MAX_TAGS = 500  #: of a package, and that a node takes or refuses
LISTED = 16  #: of the earlier bytes of a package that a record lists which we write


class Effect(StrEnum):
    """What publishing a file did."""

    CREATED = "created"  #: the name is new
    REPLACED = "replaced"  #: other bytes had the name
    CHANGED = (
        "changed"  #: these bytes had the name already; stage, tags, notes or the case of the name changed
    )
    REPAIRED = "repaired"  #: these bytes had the name already, and the file here was damaged or missing
    UNCHANGED = "unchanged"  #: these bytes had the name already


class Presence(StrEnum):
    """Whether this node holds a package's bytes, and if not, why."""

    HELD = "held"  #: verified, on disk, served
    ARRIVING = "arriving"  #: a transfer is pending or running
    WAITING = "waiting"  #: wanted, but no registered peer that can be reached holds it
    NOT_ADMITTED = "not_admitted"  #: stage or tags keep the bytes away from this node
    WITHDRAWN = "withdrawn"  #: the package was withdrawn
    DAMAGED = "damaged"  #: the file failed verification and was set aside; it is fetched again


WANTED = frozenset({Presence.ARRIVING, Presence.WAITING, Presence.DAMAGED})  #: it should be here and is not


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageBody:
    """The body of a package record. A tombstone keeps the body, so that the name stays known."""

    filename: str
    size: int  #: bytes
    sha1: str  #: hex
    sha256: str  #: hex
    manifest: str  #: SHA-256 of the packed chunk list, hex
    stage: str
    tags: tuple[str, ...] = ()
    notes: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)  #: what other systems add, by their own keys
    hashes: dict[str, str] = field(
        default_factory=dict
    )  #: further digests of the bytes: "md5", "sha512", "sha3_512", hex
    #: UTC milliseconds, when these bytes reached the network under this name; always later than what they replace
    uploaded_at: int = 0
    uploaded_by: str = ""  #: the account
    origin: str = ""  #: id of the node where these bytes arrived
    chunks: str = ""  #: the packed chunk list in base64, only when it is short; else ask for the manifest
    replaces: tuple[
        str, ...
    ] = ()  #: SHA-256 of earlier bytes of this name that the author knew, newest first


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaBody:
    """The body of a replica record."""

    package: str  #: package id
    node: str  #: node id
    sha256: str  #: of the bytes held or wanted
    presence: str  #: a `Presence`
    reason: str = ""  #: a sentence that says why


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package as this node sees it: the record that won, and what is here."""

    id: str
    revision: int
    author: str
    at: int  #: UTC milliseconds of the record
    withdrawn: bool
    body: PackageBody
    presence: Presence
    reason: str = ""  #: why it is held or not
    held_sha256: str = ""  #: the bytes served now; differs from the body's while a replacement arrives
    held_filename: str = ""  #: the name under which they are served
    wanted_since: int = (
        0  #: since when the newest bytes are wanted here and missing, UTC milliseconds; 0: they are not
    )
    retry_at: int = (
        0  #: when what is missing is looked at again, UTC milliseconds; 0: at the next reconciliation
    )


def version_of(revision: int, author: str) -> str:
    """The word that names one revision of a package in an entity tag: two nodes may write the same revision."""
    return f"{revision}-{author[:12]}"


def check_tags(tags: object) -> tuple[str, ...]:
    """Return tags without doubles, in order.

    Raises:
        InvalidInput: A tag is not 1 to 64 printable characters without comma or surrounding space; or they are too
            many.
    """
    if isinstance(tags, str) or not hasattr(tags, "__iter__"):
        raise InvalidInput("Tags are a list of words.")
    seen: dict[str, None] = {}
    for tag in tags:
        if (
            not isinstance(tag, str)
            or not 0 < len(tag) <= 64
            or tag != tag.strip()
            or "," in tag
            or not tag.isprintable()
        ):
            raise InvalidInput("A tag is 1 to 64 printable characters without commas or surrounding spaces.")
        seen[tag] = None
    if len(seen) > MAX_TAGS:
        raise InvalidInput(f"A package has at most {MAX_TAGS} tags; these are {len(seen)}.")
    return tuple(seen)
