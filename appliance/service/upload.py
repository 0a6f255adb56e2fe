"""What an upload is, and how the store keeps it."""

import secrets
import shlex
from dataclasses import asdict, dataclass, field
from typing import Any

from appliance.domain.errors import EmptyFile
from appliance.domain.manifest import Manifest
from appliance.domain.package import Effect, Package
from appliance.domain.precondition import Precondition
from appliance.store.filesystem import boot_id
from appliance.store.ports import Doc

_PROCESS = secrets.token_hex(8)
_LISTS = ("tags", "parts", "within", "given")  #: fields that the store keeps as lists


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """Bytes that arrive, or have become a package lately."""

    id: str
    filename: str  #: "" for a part of a concatenation
    size: int | None  #: bytes promised; None if only the end of the body tells
    stage: str
    within: tuple[str, ...] = ()  #: the stages that who opened it is limited to; none: all
    tags: tuple[str, ...] = ()
    notes: str = ""
    replace: bool = False
    given: tuple[str, ...] = ()  #: which of stage, tags and notes were asked for
    allow_empty: bool = False  #: whether a file without bytes is meant
    condition: Precondition | None = None  #: what has to be so of the package that is there
    sha1: str = ""  #: expected, hex
    sha256: str = ""  #: expected, hex
    part: bool = False  #: a part of a concatenation
    parts: tuple[str, ...] = ()  #: ids of the uploads that this one joins, in order
    joined: int = 0  #: how many of them are in
    actor: str = ""
    created_at: int = 0
    expires_at: int = 0  #: UTC milliseconds
    synced: int = 0  #: bytes that survive a power cut
    boot: str = ""  #: the boot of the machine that received the rest
    tus_metadata: str = ""  #: Upload-Metadata as the client wrote it
    package: str = ""  #: id of the package that it became; its bytes are no longer here
    effect: str = ""  #: an `Effect`, when it has become one
    metadata: dict[str, Any] = field(default_factory=dict)
    offset: int = 0  #: bytes received

    @property
    def all_here(self) -> bool:
        """Whether every byte is here and a package is to be made of them."""
        return not self.part and not self.package and self.size == self.offset

    @property
    def left(self) -> int:
        """Bytes still to come, 0 where nobody knows."""
        return max(0, (self.size or 0) - self.offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """An upload that became a package."""

    package: Package
    effect: Effect

    @property
    def created(self) -> bool:
        """Whether the name is new."""
        return self.effect is Effect.CREATED


def this_boot() -> str:
    """A word for as long as what was written can be read back without having been synced.

    That is until the machine stops, or where machines do not name their boots until this process does.
    """
    return boot_id() or _PROCESS


def mismatch(upload: Upload, manifest: Manifest) -> str:
    """What is wrong with the bytes, "" if nothing is."""
    for kind, expected, found in (
        ("SHA-256", upload.sha256, manifest.sha256),
        ("SHA-1", upload.sha1, manifest.sha1),
    ):
        if expected and expected != found:
            return f"The {kind} of the bytes received is {found}, not {expected}; nothing was kept. Upload it again."
    return ""


def empty_file(filename: str) -> EmptyFile:
    """The error for a file without bytes: most often a bundle, of which a client that sends files sends nothing."""
    command = f"zip -ry {shlex.quote(f'{filename}.zip')} {shlex.quote(filename)}"
    return EmptyFile(
        f'"{filename}" is empty; nothing was changed. If it is a bundle (a folder), zip it and upload that: {command}. '
        "If you mean an empty file, say so: ?allow_empty=true (--allow-empty).",
        filename=filename,
    )


def to_doc(upload: Upload) -> Doc:
    """The document that keeps an upload."""
    doc = asdict(upload)
    doc["_id"] = doc.pop("id")
    doc.update({name: list(doc[name]) for name in _LISTS})
    del doc["offset"]
    return doc


def from_doc(doc: Doc) -> Upload:
    """The upload of a document; how much of it is here is not in it."""
    fields = {name: value for name, value in doc.items() if not name.startswith("_")}
    lists = {name: tuple(doc.get(name, ())) for name in _LISTS}
    fields["condition"] = _condition(doc.get("condition"))
    return Upload(**{**fields, **lists}, id=doc["_id"])


def _condition(found: Doc | None) -> Precondition | None:
    if found is None:
        return None
    match, none_match = (
        None if found[name] is None else tuple(found[name]) for name in ("match", "none_match")
    )
    return Precondition(match=match, none_match=none_match, unmodified_since=found["unmodified_since"])
