"""What an admin sets for one MDM server, whatever its kind. The driver's own settings are in `settings`."""

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Action = Literal["sync_package", "sync_all", "mirror_all", "verify", "probe", "pause", "ignore"]


class Section(BaseModel):
    """What all sections share: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", validate_default=True)


class Intake(Section):
    """What is taken in from the MDM."""

    enabled: bool = Field(True, description="Fetch packages that are uploaded in the MDM.")
    poll_s: float = Field(60, ge=5, le=86_400, description="Seconds between two looks at the MDM.")
    stage: str = Field("", description="Stage of what is taken in. Empty: the node's default for uploads.")
    tags: tuple[str, ...] = Field((), description="Tags of what is taken in.")
    note: bool = Field(
        True, description="Leave a note in the history of each package record that was taken in."
    )
    names: str = Field("", description="Take only file names that match this regular expression.")

    @field_validator("names")
    @classmethod
    def _names(cls, names: str) -> str:
        try:
            re.compile(names)
        except re.error as exc:
            raise ValueError(f"it is not a regular expression: {exc}") from exc
        return names


class Mirror(Section):
    """What is mirrored out to the MDM."""

    enabled: bool = Field(True, description="Keep a package record in the MDM for every package.")
    stages: tuple[str, ...] = Field(("prod",), description="Only packages of these stages.")
    name: str = Field("{{ stem }}", max_length=500, description="Template of a new record's display name.")
    category: str = Field(
        "", max_length=500, description="Template of a new record's category; it must exist in the MDM."
    )
    notes: str = Field(
        "Mirrored by Open Distribution Server from {{ filename }} (SHA-256 {{ sha256 }}).",
        max_length=5000,
        description="Template of a new record's notes.",
    )
    withdrawal: Literal["leave", "mark", "delete"] = Field(
        "leave", description="What becomes of a record of ours when its package is withdrawn."
    )
    upload: bool = Field(False, description="Upload the bytes to the MDM's own storage as well.")


class Points(Section):
    """The nodes as distribution points."""

    enabled: bool = Field(True, description="Keep a distribution point record for every node.")
    name: str = Field("ODS - {{ name }}", max_length=500, description="Template of a record's name.")
    failover: bool = Field(
        True, description="Name the cloud distribution point as failover, where there is one."
    )
    username: str = Field("", description="Account for downloads, if the nodes ask for one.")
    password: str = Field("", description="Its password.", json_schema_extra={"secret": True})
    urls: dict[str, str] = Field(
        default_factory=dict,
        description="By node name or id: the URL under which devices reach it, if not its own.",
    )
    remove: bool = Field(True, description="Remove a record of ours when its node has left the network.")


class Webhooks(Section):
    """Hints from the MDM."""

    enabled: bool = Field(True, description="Take webhooks of this server.")
    register_at: str = Field(
        "",
        description="Base URL under which the MDM reaches this node; with it our webhooks are registered there.",
    )
    debounce_s: float = Field(3, ge=0, le=300, description="Hints that come within so many seconds are one.")
    rules: dict[str, Action] = Field(
        default_factory=dict, description="Event to action, beside the driver's defaults."
    )


class ServerConfig(Section):
    """One MDM server."""

    name: str = Field(min_length=1, max_length=100, description="What people call it.")
    kind: str = Field(description="The driver: jamf, ...")
    enabled: bool = Field(True, description="Off: nothing is asked of it and nothing is sent to it.")
    settings: dict[str, Any] = Field(default_factory=dict, description="The driver's own settings.")
    intake: Intake = Field(default_factory=Intake)
    mirror: Mirror = Field(default_factory=Mirror)
    points: Points = Field(default_factory=Points)
    webhooks: Webhooks = Field(default_factory=Webhooks)
