"""What the bridge asks of an MDM server, whatever its kind. A driver answers for one configured server.

Drivers are found by the entry point group `ods.mdm_drivers`: a name (the server's `kind`) and a `DriverFactory`.
Every method that speaks to the server may raise `MdmError` (`appliance.domain.mdm_errors`); its subclasses say whether
trying again helps.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from pydantic import BaseModel


class CloudState(StrEnum):
    """Whether the MDM's own storage holds a package's bytes."""

    NONE = "none"  #: a record without bytes there
    PENDING = "pending"  #: being uploaded, copied or hashed
    READY = "ready"
    ERROR = "error"  #: the upload there failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a kind of server, in the state it is in, can do."""

    list_packages: bool = False
    open_package: bool = False
    package_records: bool = False
    upload_package: bool = False
    distribution_points: bool = False
    webhooks: bool = False
    notes: tuple[str, ...] = ()  #: sentences for the admin: what is missing or going away, and what follows
    missing: str = (
        ""  #: a sentence about an ability that the server refused lately; it is asked for again soon
    )
    privilege_missing: bool = False  #: that refusal was for a privilege that a person has to add


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckLine:
    """One line of `check`."""

    what: str  #: "Sign in", "Package records: create", ...
    ok: bool
    detail: str = ""  #: what was found, or what to do
    privilege: str = ""  #: exactly as the MDM calls it, when it is missing
    needed_for: str = ""  #: "", "in", "out", "points", "webhooks": an unneeded line that fails is no fault


@dataclass(frozen=True, slots=True, kw_only=True)
class RemotePackage:
    """A package record in the MDM, as it was last read."""

    id: str
    file_name: str
    name: str = ""
    state: CloudState = CloudState.NONE
    size: int | None = None  #: bytes in the MDM's storage, None if unknown
    hashes: Mapping[str, str] = field(default_factory=dict)  #: "md5", "sha256", "sha512", "sha3_512" -> hex
    fields: Mapping[str, Any] = field(default_factory=dict)  #: the driver's own fields, for merging

    @property
    def mark(self) -> str:
        """A word that changes when the bytes do; "" while that cannot be told."""
        digest = next(
            (self.hashes[kind] for kind in ("sha3_512", "sha512", "sha256", "md5") if kind in self.hashes), ""
        )
        return f"{self.size}:{digest}" if self.state is CloudState.READY and digest else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageFacts:
    """What a package record should say."""

    id: str  #: package id in ODS
    file_name: str
    size: int  #: bytes
    hashes: Mapping[str, str]  #: "md5", "sha1", "sha256", "sha512", "sha3_512" -> hex; what is known
    stage: str
    tags: tuple[str, ...]
    notes: str
    metadata: Mapping[str, Any]
    revision: int
    uploaded_by: str
    uploaded_at: int  #: UTC milliseconds
    record_name: str = ""  #: the rendered templates, for a record that is created
    record_category: str = ""
    record_notes: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What a distribution point record should say."""

    id: str  #: node id
    name: str
    url: str  #: base URL of the node, as devices reach it: scheme, host and port
    context: str = ""  #: the path before /Packages/, such as /ods
    stage: str = ""
    record_name: str = ""  #: the rendered template
    username: str = ""  #: for downloads, if the nodes ask for an account
    password: str = field(default="", repr=False)
    failover: bool = False  #: name the cloud distribution point as failover, if there is one


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirrored:
    """What became of a record in the MDM."""

    remote_id: str
    created: bool = False  #: by this call
    changed: bool = False
    sent: Mapping[str, Any] = field(
        default_factory=dict
    )  #: the fields that are ours, as they were last written
    conflict: str = ""  #: why the record was left as it is; shown to the admin
    pending: bool = False  #: the MDM still works on it; ask again


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """A webhook as it was understood."""

    event: str  #: the MDM's own word, such as "RestAPIOperation"
    id: str  #: equal for two deliveries of the same event
    at: int = 0  #: UTC milliseconds, by the MDM's clock
    subject: str = ""  #: what it is about, such as a package's name
    subject_kind: str = ""  #: such as "package"
    operation: str = ""  #: "create", "update", "delete", "read" or ""
    actor: str = ""  #: who did it, by the MDM's account names
    successful: bool = True


class Driver(Protocol):
    """One MDM server."""

    @property
    def requests_made(self) -> int:
        """How many requests were sent to the server since the driver was made."""

    async def check(self) -> list[CheckLine]:
        """Try everything that the configuration needs, without changing anything. Never raises `MdmError`."""

    async def capabilities(self) -> Capabilities:
        """What the server can do; found out at the first call, and again after `probe`."""

    async def probe(self) -> None:
        """Forget what is known of the server: it was restarted or upgraded."""

    async def own_account(self) -> str:
        """The account name under which the server logs our own requests."""

    async def list_packages(self) -> list[RemotePackage]:
        """Every package record, with what the MDM's storage says of its bytes.

        Raises:
            MdmError: The MDM gave no list, or one that lacks records by its own count.
        """

    async def find_package(self, remote_id: str) -> RemotePackage | None:
        """One package record, asked for by its id; None if the MDM says that there is none.

        Raises:
            MdmBusy, MdmNeedsAttention, MdmUnreachable: The server cannot be called now.
            MdmError: The MDM cannot show this one record; others may be well.
        """

    def open_package(self, package: RemotePackage, offset: int) -> AsyncIterator[bytes]:
        """The bytes from `offset` on, at most as many as the record states; resumes by itself after lost connections.

        It keeps nothing of the event loop that `list_packages` ran on: it may be used on another one.
        """

    async def add_note(self, package: RemotePackage, text: str) -> None:
        """Leave a note in the history of a package record, if the MDM keeps one."""

    async def ensure_package_record(
        self,
        facts: PackageFacts,
        *,
        remote: RemotePackage | None,
        known_id: str = "",
        sent: Mapping[str, Any],
    ) -> Mirrored:
        """Create the record, or bring the fields that are ours up to date and leave all others.

        Args:
            facts: What it should say.
            remote: The record of this file name as it was listed, None if there was none. It is looked for again,
                by `known_id` and by its file name, before one is created.
            known_id: The id that it had before, "" if it is not known.
            sent: What we wrote last time; a field that somebody changed since is left, unless it is a hash.

        Returns:
            What became of it; `pending` if the server contradicts itself and should be listed again.

        Raises:
            MdmRefused: The server does not take it; among others because there is such a record, which it does not
                show. It is never created under another name then.
        """

    async def upload_package(self, facts: PackageFacts, remote_id: str, path: str) -> Mirrored:
        """Upload the file at `path` to the MDM's storage; `pending` until the MDM states its hash."""

    async def withdraw_package_record(
        self, remote_id: str, *, policy: str, sent: Mapping[str, Any]
    ) -> Mirrored:
        """Do with a record what `policy` says: "leave", "mark" or "delete".

        The caller knows that it is ours, and has just read it by its id.
        """

    async def list_distribution_points(self) -> list[Mapping[str, Any]]:
        """Every distribution point record: "id", "name" and the driver's own fields."""

    async def find_distribution_point(self, remote_id: str) -> Mapping[str, Any] | None:
        """One distribution point record, asked for by its id; None if the MDM says that there is none."""

    async def ensure_distribution_point(
        self, node: NodeFacts, *, remote_id: str, sent: Mapping[str, Any], known: Sequence[Mapping[str, Any]]
    ) -> Mirrored:
        """Create the node's record or bring the fields that are ours up to date; `known` is what was just listed."""

    async def remove_distribution_point(self, remote_id: str) -> None:
        """Delete a record that is ours; gone already is well."""

    async def segments(self) -> list[Mapping[str, Any]]:
        """Network segments: "name", "start", "end", "distribution_point"; [] where the MDM has none."""

    async def register_webhooks(
        self, url: str, *, events: Sequence[str], secret: str
    ) -> list[Mapping[str, Any]]:
        """Create or mend our webhooks and read them back.

        Args:
            url: Where the MDM is to send them.
            events: The events wanted, in the MDM's words.
            secret: What proves a delivery; the driver says how it is sent.

        Returns:
            For each event "id", "event", "authentication" ("header", "basic" or "path"), "ok" and "detail".
        """

    async def remove_webhooks(self, url: str) -> int:
        """Delete our webhooks, known by their URL; return how many."""

    def parse_webhook(self, content_type: str, body: bytes) -> Hook:
        """Understand a delivery, leniently.

        Raises:
            HookInvalid: It cannot be a webhook of this MDM.
        """

    async def close(self) -> None:
        """Sign out and let go of connections."""


class DriverFactory(Protocol):
    """Makes drivers of one kind."""

    #: URL, credentials, ...; what is marked `json_schema_extra={"secret": True}` is kept encrypted and never shown
    Settings: type[BaseModel]

    def __call__(self, settings: BaseModel) -> Driver:
        """A driver for a server with these settings."""
