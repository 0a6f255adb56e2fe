"""The bodies and queries that the admin API takes."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_INT = 2**53 - 1  #: what JSON carries without loss


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
    presence: str = Field("", description="Only with this presence at this node.")
    withdrawn: bool = Field(False, description="Withdrawn ones too.")
    sort: Literal["filename", "-filename", "size", "-size", "changed_at", "-changed_at"] = "filename"


class PackageChange(Input):
    """What to change of a package; what is absent stays."""

    stage: str | None = None
    tags: list[str] | None = None
    notes: str | None = Field(None, max_length=10_000)
    metadata: dict[str, Any] | None = None
    revision: int | None = Field(None, description="Change only if the package is at this revision.")


class InviteInput(Input):
    """An invite to make."""

    expires_in: int = Field(86_400, description="Its life in seconds, 60 to 604800.")


class JoinInput(Input):
    """An invite to use."""

    invite: str = Field(max_length=4096)


class TransfersQuery(PageQuery):
    """Which transfers to list."""

    state: str = Field("", description="Only in this state.")
    package: str = Field("", description="Only of this package id.")


class JobsQuery(PageQuery):
    """Which jobs to list."""

    state: str = ""
    queue: str = ""
    name: str = ""


class EventsQuery(Input):
    """Which events to list."""

    since: int | None = Field(
        None, ge=0, le=MAX_INT, description="Events behind this number, oldest first; else newest first."
    )
    before: int | None = Field(None, ge=0, le=MAX_INT, description="Events before this number.")
    type: str | None = None
    subject: str | None = None
    actor: str | None = None
    limit: int = Field(100, ge=1, le=500)


class EventsExport(Input):
    """Which events to export."""

    type: str | None = None
    subject: str | None = None
    actor: str | None = None


class TokenInput(Input):
    """A token to make."""

    name: str = Field(min_length=1, max_length=100, description="What it is for.")
    role: Literal["viewer", "operator", "admin"] | None = None
    expires_in: int = Field(7_776_000, description="Its life in seconds, at most 366 days.")


class UserInput(Input):
    """An account to make."""

    name: str
    password: str
    role: Literal["viewer", "operator", "admin"] = "viewer"


class UserChange(Input):
    """What to change of an account."""

    password: str | None = None
    role: Literal["viewer", "operator", "admin"] | None = None
