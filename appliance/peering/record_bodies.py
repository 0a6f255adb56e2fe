"""The bodies of records, parsed and bounded once: whoever uses one afterwards need not look again.

Nothing is converted: a number that is a text, or a list that is a mapping, is no body. Fields that this version does
not know are not looked at; they were signed, and stay in the record.
"""

import base64
import re
from collections.abc import Mapping
from typing import Annotated, Any, NotRequired, TypeVar

from pydantic import ConfigDict, Field, Strict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from appliance.domain.errors import IntegrityFailure, InvalidDigest, InvalidInput, WireInvalid
from appliance.domain.manifest import HEX_LENGTHS, Manifest, check_digest
from appliance.domain.names import check_filename, is_package_id, package_id
from appliance.domain.node import MAX_PEERS, NodeBody
from appliance.domain.package import MAX_TAGS, PackageBody, Presence, ReplicaBody, check_tags
from appliance.domain.record import MAX_NUMBER, Record, RecordKind, oddity, replica_id

from .address import check_url

MAX_REPLACES = 256  #: earlier bytes that a package record lists; we write 16
MAX_HASHES = 32  #: further digests; we write 3
_NODE_ID = re.compile(r"[a-z2-7]{52}")
_CONTEXT = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,99}){0,8}")

_Number = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
_Word = Annotated[str, Field(min_length=1, max_length=64)]  #: a stage or tag
_Line = Annotated[str, Field(max_length=1024)]
_Digest = Annotated[str, Field(max_length=128)]
# JSON knows no tuples: a list becomes one. What is in it is not converted.
_Words = Annotated[tuple[Annotated[_Word, Strict()], ...], Field(max_length=MAX_TAGS, strict=False)]
_Digests = Annotated[tuple[Annotated[_Digest, Strict()], ...], Field(max_length=MAX_REPLACES, strict=False)]

_NodeIds = Annotated[
    tuple[Annotated[str, Field(max_length=52), Strict()], ...], Field(max_length=MAX_PEERS, strict=False)
]

_EXACT = ConfigDict(strict=True, extra="ignore")


@with_config(_EXACT)
class _Package(TypedDict):
    filename: Annotated[str, Field(max_length=255)]
    size: _Number
    sha1: _Digest
    sha256: _Digest
    manifest: _Digest
    stage: _Word
    tags: NotRequired[_Words]
    notes: NotRequired[str]
    metadata: NotRequired[dict[str, Any]]
    hashes: NotRequired[
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=256)]],
            Field(max_length=MAX_HASHES),
        ]
    ]
    uploaded_at: NotRequired[_Number]
    uploaded_by: NotRequired[_Line]
    origin: NotRequired[Annotated[str, Field(max_length=64)]]
    chunks: NotRequired[str]
    replaces: NotRequired[_Digests]


@with_config(_EXACT)
class _Replica(TypedDict):
    package: Annotated[str, Field(max_length=32)]
    node: Annotated[str, Field(max_length=52)]
    sha256: _Digest
    presence: Annotated[str, Field(max_length=32)]
    reason: NotRequired[Annotated[str, Field(max_length=8192)]]


@with_config(_EXACT)
class _Node(TypedDict):
    name: Annotated[str, Field(max_length=255)]
    url: Annotated[str, Field(max_length=2048)]
    stage: _Word
    version: Annotated[str, Field(max_length=100)]
    tags_take: NotRequired[_Words]
    tags_refuse: NotRequired[_Words]
    context: NotRequired[_Line]
    tls_fingerprint: NotRequired[_Digest]
    peers: NotRequired[_NodeIds]


_package, _replica, _node = TypeAdapter(_Package), TypeAdapter(_Replica), TypeAdapter(_Node)

B = TypeVar("B")


def package_body(record: Record) -> PackageBody:
    """The body of a package record. Raises WireInvalid."""
    return parse_package_body(record.body)


def parse_package_body(body: Mapping[str, Any]) -> PackageBody:
    """The same, of a body alone. Raises WireInvalid."""
    return PackageBody(**_parse(_package, RecordKind.PACKAGE, body))


def replica_body(record: Record) -> ReplicaBody:
    """The body of a replica record. Raises WireInvalid."""
    return ReplicaBody(**_parse(_replica, RecordKind.REPLICA, record.body))


def node_body(record: Record) -> NodeBody:
    """The body of a node record. Raises WireInvalid."""
    return NodeBody(**_parse(_node, RecordKind.NODE, record.body))


def check_rules(record: Record) -> None:
    """Check that a record says only what a record of its kind may say.

    Raises:
        WireInvalid: It breaks a rule of its kind.
    """
    if (odd := oddity(record.body)) is not None:
        raise WireInvalid(f"A record cannot have {odd}.")
    match record.kind:
        case RecordKind.NODE:
            _check_node(record)
        case RecordKind.REPLICA:
            _check_replica(record)
        case RecordKind.PACKAGE:
            _check_package(record)


def _parse(adapter: TypeAdapter[B], kind: RecordKind, body: Mapping[str, Any]) -> B:
    try:
        return adapter.validate_python(body)
    except ValidationError as exc:
        first = exc.errors()[0]
        field = ".".join(str(part) for part in first["loc"])[:100]
        raise WireInvalid(f'The body of a {kind} record is not valid: "{field}": {first["msg"]}.') from exc


def _check_node(record: Record) -> None:
    body = node_body(record)
    if record.id != record.author and not record.deleted:
        raise WireInvalid("A node record is written by another node.")
    if not _NODE_ID.fullmatch(record.id):
        raise WireInvalid("A node record names no node.")
    if not body.name.isprintable() or not _CONTEXT.fullmatch(body.context):
        raise WireInvalid("A node record's name or context is not valid.")
    try:
        check_url(body.url)
    except InvalidInput as exc:
        raise WireInvalid(f"A node record's URL is not valid: {exc.message}") from exc
    if body.tls_fingerprint:
        _check_digest("sha256", body.tls_fingerprint)
    if not all(_NODE_ID.fullmatch(peer) for peer in body.peers):
        raise WireInvalid("A node record's peers are no node ids.")


def _check_replica(record: Record) -> None:
    body = replica_body(record)
    if body.node != record.author or record.id != replica_id(body.package, body.node):
        raise WireInvalid("A replica record is written by another node than the one it describes.")
    if not is_package_id(body.package):
        raise WireInvalid("A replica record names no package.")
    if body.sha256:
        _check_digest("sha256", body.sha256)
    if body.presence not in list(Presence):
        raise WireInvalid(f'A replica record knows no presence "{body.presence}".')


def _check_package(record: Record) -> None:
    body = package_body(record)
    try:
        if check_filename(body.filename) != body.filename:
            raise WireInvalid("A package record's file name is not in NFC.")
        check_tags(body.tags)
        for digest in (body.sha256, body.manifest, *body.replaces):
            _check_digest("sha256", digest)
        _check_digest("sha1", body.sha1)
        for kind, digest in body.hashes.items():
            if kind in HEX_LENGTHS:  # a newer version may know others
                _check_digest(kind, digest)
        if body.chunks:
            manifest = Manifest(
                size=body.size,
                sha1=body.sha1,
                sha256=body.sha256,
                chunks=base64.b64decode(body.chunks, validate=True),
            )
            if manifest.digest != body.manifest:
                raise WireInvalid("A package record's chunk list does not match its digest.")
    except (IntegrityFailure, ValueError) as exc:
        raise WireInvalid(f"A package record's chunk list is not valid: {exc}") from exc
    except WireInvalid:
        raise
    except InvalidInput as exc:
        raise WireInvalid(f"A package record is not valid: {exc.message}") from exc
    if record.id != package_id(body.filename):
        raise WireInvalid("A package record's id does not follow from its file name.")


def _check_digest(kind: str, value: str) -> None:
    """Digests become file names and are compared as text: only their one form will do."""
    try:
        fits = check_digest(kind, value) == value
    except InvalidDigest as exc:
        raise WireInvalid(f"A record's digest is not valid: {exc.message}") from exc
    if not fits:
        raise WireInvalid(f"A record's {kind} is not in lower case.")
