"""The bodies and queries that the admin API takes."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from appliance.domain.event import EventType
from appliance.domain.job import QUEUES
from appliance.domain.package import Presence
from appliance.domain.record import MAX_NUMBER
from appliance.domain.states import JobState, TransferState
from appliance.service.scopes import SCOPES

from .parameters import Choice, Flag

EVENTS = sorted({*map(str, EventType), *(f"{type.partition('.')[0]}.*" for type in EventType)})


class Input(BaseModel):
    """What all inputs share: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class NoQuery(Input):
    """A list that always comes whole: it takes no parameters."""


class PageQuery(Input):
    """Paging."""

    limit: int = Field(100, ge=1, le=500, description="At most so many items.")
    cursor: str = Field("", description="`next` of the page before.")


class PackagesQuery(PageQuery):
    """Which packages to list."""

    q: str = Field("", max_length=255, description="Part of the file name, in any case.")
    stage: str = Field("", description="Only this stage.")
    tag: str = Field("", description="Only with this tag.")
    presence: Annotated[str, Choice(Presence)] = Field(
        "", description="Only with this presence at this node."
    )
    withdrawn: Flag = Field(False, description="Withdrawn ones too.")
    sort: Literal["filename", "-filename", "size", "-size", "changed_at", "-changed_at"] = "filename"


class PackageChange(Input):
    """What to change of a package; what is absent stays."""

    stage: str | None = None
    tags: list[str] | None = None
    notes: str | None = Field(None, max_length=10_000)
    metadata: dict[str, Any] | None = None
    revision: int | None = Field(None, description="Change only if the package is at this revision.")


class PackageRestore(Input):
    """Which version to restore."""

    version: str = Field(
        "",
        max_length=64,
        description="A SHA-256, its beginning (six characters or more) or a revision. Without it: the newest "
        "earlier version.",
    )


class InviteInput(Input):
    """An invite to make."""

    expires_in: int = Field(86_400, description="Its life in seconds, 60 to 604800.")


class JoinInput(Input):
    """An invite to use."""

    invite: str = Field(max_length=4096)


class TransfersQuery(PageQuery):
    """Which transfers to list."""

    state: Annotated[str, Choice(TransferState)] = Field("", description="Only in this state.")
    package: str = Field("", description="Only of this package: its id, or its file name.")


class JobsQuery(PageQuery):
    """Which jobs to list."""

    state: Annotated[str, Choice(JobState)] = Field("", description="Only in this state.")
    queue: Annotated[str, Choice(QUEUES)] = Field("", description="Only in this queue.")
    name: str = Field("", description="Only of this name.")


class EventsExport(Input):
    """Which events to export."""

    type: Annotated[str, Choice(EVENTS)] | None = Field(
        None, description='A type, or a pattern such as "package.*".'
    )
    subject: str | None = Field(None, max_length=255, description="Only about this.")
    actor: str | None = Field(None, max_length=255, description="Only by this account, node:<id> or system.")
    start: str | None = Field(None, max_length=40, description="From this day or time on, in ISO 8601.")
    end: str | None = Field(
        None, max_length=40, description="Until the end of this day, or before this time."
    )
    zone: str = Field(
        "UTC", max_length=60, description="The time zone of days and of times without an offset."
    )


class EventsQuery(EventsExport):
    """Which events to list."""

    since: int | None = Field(
        None, ge=0, le=MAX_NUMBER, description="Events behind this number, oldest first; else newest first."
    )
    before: int | None = Field(None, ge=0, le=MAX_NUMBER, description="Events before this number.")
    limit: int = Field(100, ge=1, le=500)


class TokenInput(Input):
    """A token to make."""

    name: str = Field(min_length=1, max_length=100, description="What it is for.")
    role: Literal["viewer", "operator", "admin"] | None = None
    stages: list[str] = Field(
        [], max_length=100, description="The stages that an operator's is limited to; none: yours."
    )
    scopes: list[str] = Field(
        [],
        max_length=100,
        description=f"What it is good for: {', '.join(SCOPES)}. None: all that yours is good for.",
    )
    expires_in: int = Field(7_776_000, description="Its life in seconds, at most 366 days.")


class UserInput(Input):
    """An account to make."""

    name: str
    password: str
    role: Literal["viewer", "operator", "admin"] = "viewer"
    stages: list[str] = Field(
        [], max_length=100, description="The stages that an operator is limited to; none: all."
    )


class UserChange(Input):
    """What to change of an account."""

    password: str | None = None
    role: Literal["viewer", "operator", "admin"] | None = None
    stages: list[str] | None = Field(
        None, max_length=100, description="The stages that an operator is limited to; an empty list: all."
    )
    revision: int | None = Field(None, description="Change only if the account is at this revision.")


class DirectoryTest(Input):
    """What to try at the directory."""

    username: str = Field("", max_length=256, description="Whom to look for. Empty: only try the servers.")
    password: str = Field("", max_length=1024, description="Whether it is theirs. Empty: none is tried.")


class MdmServerDraft(Input):
    """Fields of an MDM server. `GET /mdm/kinds` describes the sections.

    In a section, what is absent stays and null goes back to the default. A secret that is absent, empty or the mask
    stays as it is.
    """

    name: str | None = Field(None, description="What people call it.")
    kind: str | None = Field(None, description="The driver: jamf, ...")
    enabled: StrictBool | None = Field(
        None, description="Off: nothing is asked of it and nothing is sent to it."
    )
    settings: dict[str, Any] | None = Field(
        None, description="The driver's own settings: URL, credentials, ..."
    )
    intake: dict[str, Any] | None = Field(None, description="What is taken in from the MDM.")
    mirror: dict[str, Any] | None = Field(None, description="What is mirrored out to the MDM.")
    points: dict[str, Any] | None = Field(None, description="The nodes as distribution points.")
    webhooks: dict[str, Any] | None = Field(None, description="Hints from the MDM.")
    hook_secret: str | None = Field(
        None, description="What proves a webhook, if it is set up by hand. Without one it is made up."
    )


class MdmServerInput(MdmServerDraft):
    """An MDM server to add or to try."""

    name: str = Field(description="What people call it.")
    kind: str = Field(description="The driver: jamf, ...")


class MdmServerChange(MdmServerDraft):
    """What to change of an MDM server."""

    revision: int | None = Field(None, description="Change only if the configuration is at this revision.")


class MdmSync(Input):
    """A sync to queue."""

    verify: StrictBool = Field(False, description="Check the hashes of every record again.")


class MdmPause(Input):
    """A pause."""

    seconds: int | None = Field(
        None, ge=1, le=31_622_400, description="How long. Absent: until it is resumed."
    )


class MdmPackagesQuery(PageQuery):
    """Which package rows of an MDM server to list."""

    direction: Literal["", "in", "out"] = Field(
        "", description="Only what came in, or only what was mirrored out."
    )
    state: str = Field(
        "",
        description="Only in this state, such as pulled, mirrored, conflict, failed, quarantined, pending.",
    )


class _DestinationFields(Input):
    """What can be set of a destination; some of it is for one kind only."""

    events: list[str] | None = Field(
        None, max_length=100, description='Types of events, or patterns such as "package.*"; without it all.'
    )
    enabled: StrictBool | None = Field(
        None, description="Whether it is sent to; true also resumes a suspended one."
    )
    format: Literal["standard", "slack", "teams", "template"] | None = Field(
        None, description="Webhooks: what the body looks like. Without it: standard."
    )
    url: str | None = Field(None, max_length=2048, description="Webhooks: where to. Never shown again.")
    template: str | None = Field(None, max_length=16_384, description="Webhooks: for the format template.")
    content_type: str | None = Field(
        None,
        max_length=100,
        description="Webhooks: of what the template makes. Without it: application/json.",
    )
    allow_private: StrictBool | None = Field(
        None, description="Webhooks: plain HTTP and private, loopback or link-local addresses are fine."
    )
    address: str | None = Field(None, max_length=254, description="Mail: one address.")
    mode: Literal["immediate", "daily"] | None = Field(
        None, description="Mail: at once (at most one a minute), or a daily digest. Without it: immediate."
    )
    hour: int | None = Field(None, ge=0, le=23, description="Mail: of the digest. Without it: 7.")
    zone: str | None = Field(
        None, max_length=60, description="Mail: time zone such as Europe/Berlin. Without it: UTC."
    )


class DestinationInput(_DestinationFields):
    """A destination to make."""

    name: str = Field(max_length=100)
    kind: Literal["webhook", "mail"]


class DestinationChange(_DestinationFields):
    """What to change of a destination; what is absent stays."""

    name: str | None = Field(None, max_length=100)
    version: int | None = Field(None, description="Change only if the destination is at this version.")


class DeliveriesQuery(PageQuery):
    """Which deliveries to list."""

    destination: str = Field("", max_length=100, description="Only to this destination: its id, or its name.")
    state: Literal["", "pending", "delivered", "failed"] = Field("", description="Only in this state.")
    type: Annotated[str, Choice(EventType)] = Field("", description="Only of this type of event.")
