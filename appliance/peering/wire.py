"""The JSON of the peer protocol, read strictly: what another node sends is checked before anybody looks at it."""

import base64
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from appliance.domain.errors import IntegrityFailure, InvalidDigest, WireInvalid
from appliance.domain.manifest import Manifest
from appliance.domain.record import MAX_NUMBER

PAGE_LIMIT = 500
ANNOUNCED_LIMIT = 1000
MOVING_LIMIT = 200  #: packages on their way to a node that are told of
SIGHTS_LIMIT = 400  #: nodes that are told of

M = TypeVar("M", bound=BaseModel)

MAX_STAGES = 100  #: that a node tells of when it joins

Number = Annotated[
    int, Field(ge=0, le=MAX_NUMBER)
]  #: what a database keeps, and a float does not overflow at
NodeId = Annotated[str, Field(pattern=r"^[a-z2-7]{52}$")]
Stages = (
    Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=MAX_STAGES)] | None
)
Rate = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]  #: bytes a second


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Announced(_Wire):
    """One record that changed."""

    kind: str
    id: str
    revision: int


class Announcement(_Wire):
    """Records that changed at the sender: a hint to read its feed."""

    records: list[Announced] = Field(max_length=ANNOUNCED_LIMIT)
    node: dict[str, Any] | None = None  #: the sender's signed node record, when it starts or joins


class Changes(_Wire):
    """A page of a change feed; the records are checked one by one by who takes them in."""

    feed: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")  #: it becomes part of a URL
    next: Number
    more: bool
    records: list[Any] = Field(max_length=PAGE_LIMIT)


class NodeInfo(_Wire):
    """Who a node is."""

    id: NodeId
    version: str
    time: Number  #: UTC milliseconds by its clock
    record: dict[str, Any]  #: its signed node record


class Registration(_Wire):
    """A node asks to be registered."""

    invite: str  #: the invite's id
    record: dict[str, Any]  #: the joining node's signed node record
    nonce: str = Field(min_length=16, max_length=64)
    mac: str  #: HMAC-SHA256 with the invite's secret, hex: see `invite.registration_mac`
    stages: Stages = None  #: all stages that it knows, in their order; an older version does not say
    time: Number | None = None  #: UTC milliseconds by its clock; an older version does not say


class Registered(_Wire):
    """The answer to a registration."""

    record: dict[str, Any]  #: the inviter's signed node record
    mac: str  #: HMAC-SHA256 with the invite's secret, hex: see `invite.answer_mac`
    stages: Stages = None  #: all stages that it knows, in their order; an older version does not say
    time: Number | None = None  #: UTC milliseconds by its clock; an older version does not say


class MovingWire(_Wire):
    """A package on its way to a node."""

    package: str = Field(pattern=r"^[a-z2-7]{32}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    done: Number  #: bytes
    rate: Rate
    sources: dict[NodeId, Rate] = Field(max_length=SIGHTS_LIMIT)  #: by node


class SightWire(_Wire):
    """What a node said of itself."""

    node: NodeId
    age_ms: int = Field(ge=0, le=600_000)  #: since it said so
    peers: dict[NodeId, bool] = Field(
        max_length=SIGHTS_LIMIT
    )  #: registered nodes, and whether it reaches them
    moving: list[MovingWire] = Field(max_length=MOVING_LIMIT)


class Status(_Wire):
    """What a node says of itself, and what it heard of its peers."""

    sights: list[SightWire] = Field(max_length=SIGHTS_LIMIT)


class Complaint(_Wire):
    """A chunk that came from the receiver of this is not what the manifest says."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")  #: of the package's bytes
    chunk: int = Field(ge=0)


class ManifestWire(_Wire):
    """A manifest."""

    size: Number
    sha1: str
    sha256: str
    chunks: str  #: the packed SHA-1s, base64


def manifest_json(manifest: Manifest) -> dict[str, Any]:
    """The JSON form of a manifest."""
    return {
        "size": manifest.size,
        "sha1": manifest.sha1,
        "sha256": manifest.sha256,
        "chunks": base64.b64encode(manifest.chunks).decode("ascii"),
    }


def parse_manifest(data: Any) -> Manifest:
    """Read a manifest.

    Raises:
        WireInvalid: It is not one, or contradicts itself.
    """
    wire = parse(ManifestWire, data)
    try:
        return Manifest(
            size=wire.size,
            sha1=wire.sha1,
            sha256=wire.sha256,
            chunks=base64.b64decode(wire.chunks, validate=True),
        )
    except (ValueError, InvalidDigest, IntegrityFailure) as exc:
        raise WireInvalid(f"A manifest is not valid: {exc}") from exc


def parse(model: type[M], data: Any) -> M:
    """Read a message.

    Raises:
        WireInvalid: It does not have the shape; the message names the first field that does not fit.
    """
    try:
        return model.model_validate(data)
    except ValidationError as exc:
        first = exc.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "it"
        raise WireInvalid(f'A {model.__name__} message is not valid: "{field}": {first["msg"]}.') from exc
