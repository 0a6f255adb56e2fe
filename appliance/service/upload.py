"""What an upload is, and how the store keeps it."""

import secrets
from dataclasses import asdict, dataclass, field
from typing import Any

from appliance.domain.manifest import Manifest
from appliance.domain.package import Package
from appliance.store.filesystem import boot_id
from appliance.store.ports import Doc

_PROCESS = secrets.token_hex(8)


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
    created: bool  #: the name is new; else a file was replaced


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


def to_doc(upload: Upload) -> Doc:
    """The document that keeps an upload."""
    doc = asdict(upload)
    doc["_id"] = doc.pop("id")
    doc["tags"], doc["parts"] = list(upload.tags), list(upload.parts)
    doc["within"] = list(upload.within)
    del doc["offset"]
    return doc


def from_doc(doc: Doc) -> Upload:
    """The upload of a document; how much of it is here is not in it."""
    fields = {name: value for name, value in doc.items() if not name.startswith("_")}
    lists = {name: tuple(doc.get(name, ())) for name in ("tags", "parts", "within")}
    return Upload(**{**fields, **lists}, id=doc["_id"])
