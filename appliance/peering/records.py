"""Signed records: their JSON form, their signature, and the checks that any node can make alone.

The signature covers the RFC 8785 canonical JSON of all fields but itself. The author's public key is in the
record and hashes to the author's id, so a record proves its origin whoever relays it. Fields of a body that this
version does not know are kept and passed on: they are part of what was signed.
"""

import base64
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import rfc8785
from pydantic import TypeAdapter, ValidationError

from appliance.domain.errors import (
    IntegrityFailure,
    InvalidDigest,
    InvalidInput,
    SignatureInvalid,
    WireInvalid,
)
from appliance.domain.manifest import HEX_LENGTHS, Manifest, check_digest
from appliance.domain.names import check_filename, node_id, package_id
from appliance.domain.node import NodeBody
from appliance.domain.package import PackageBody, Presence, ReplicaBody, check_tags
from appliance.domain.record import MAX_NESTING, Record, RecordKind, nested_too_deep, replica_id

from .address import check_url
from .identity import Identity, signature_holds

MAX_RECORD_BYTES = 65_536
_PACKAGE_ID = re.compile(r"[a-z2-7]{32}")
_FIELDS: dict[str, type] = {
    "kind": str,
    "id": str,
    "revision": int,
    "author": str,
    "key": str,
    "at": int,
    "deleted": bool,
    "body": dict,
    "signature": str,
}
_MAX_INT = 2**53 - 1

T = TypeVar("T")

_package = TypeAdapter(PackageBody)
_replica = TypeAdapter(ReplicaBody)
_node = TypeAdapter(NodeBody)


def sign_record(
    identity: Identity,
    *,
    kind: RecordKind,
    id: str,
    revision: int,
    at: int,
    deleted: bool,
    body: Mapping[str, Any],
) -> Record:
    """Write a record as this node.

    Raises:
        WireInvalid: It is too large, or holds a value that has no canonical form: other nodes would refuse it.
    """
    fields: dict[str, Any] = {
        "kind": str(kind),
        "id": id,
        "revision": revision,
        "author": identity.node_id,
        "key": identity.public_key_b64,
        "at": at,
        "deleted": deleted,
        "body": body,
    }
    signature = base64.b64encode(identity.sign(_canonical(fields))).decode("ascii")
    return Record(**{**fields, "kind": kind}, signature=signature)


def record_json(record: Record) -> dict[str, Any]:
    """The JSON form of a record."""
    return {**{name: getattr(record, name) for name in _FIELDS}, "kind": str(record.kind)}


def parse_record(item: Any) -> Record:
    """Read the JSON form of a record; only its shape is checked.

    Raises:
        WireInvalid: A field is missing, unknown or of the wrong type.
    """
    if not isinstance(item, dict) or item.keys() != _FIELDS.keys():
        raise WireInvalid("A record has exactly the fields " + ", ".join(_FIELDS) + ".")
    for name, type_ in _FIELDS.items():
        value = item[name]
        fits = isinstance(value, type_) and not (type_ is int and isinstance(value, bool))
        if not fits or (isinstance(value, int) and not 0 <= value <= _MAX_INT):
            raise WireInvalid(f'The field "{name}" of a record is not valid.')
    try:
        kind = RecordKind(item["kind"])
    except ValueError as exc:
        raise WireInvalid("A record is a node, a package or a replica.") from exc
    return Record(**{**item, "kind": kind})


def verify_record(record: Record) -> None:
    """Check all that can be known of a record without asking anybody.

    Raises:
        SignatureInvalid: The author did not sign it.
        WireInvalid: It breaks a rule of its kind.
    """
    fields = record_json(record)
    signature = fields.pop("signature")
    data = _canonical(fields)
    try:
        key = base64.b64decode(record.key, validate=True)
        raw = base64.b64decode(signature, validate=True)
    except ValueError as exc:
        raise SignatureInvalid("A record's key or signature is not base64.") from exc
    if base64.b64encode(raw).decode("ascii") != signature:
        # Base64 has spare bits: a relay could make records that differ, and rank, by nothing else.
        raise SignatureInvalid("A record's signature is not in its one form.")
    if node_id(key) != record.author or not signature_holds(key, raw, data):
        raise SignatureInvalid(f"A {record.kind} record was not signed by its author {record.author[:8]}.")
    _check_rules(record)


def _canonical(fields: Mapping[str, Any]) -> bytes:
    """What a signature covers."""
    if nested_too_deep(fields):
        raise WireInvalid(f"A record has at most {MAX_NESTING} levels of objects and lists.")
    try:
        data: bytes = rfc8785.dumps(dict(fields))
    except (rfc8785.CanonicalizationError, RecursionError, UnicodeError) as exc:
        raise WireInvalid("A record holds values that have no canonical form.") from exc
    if len(data) > MAX_RECORD_BYTES:
        raise WireInvalid(f"A record has at most {MAX_RECORD_BYTES} bytes; this one has {len(data)}.")
    return data


def _check_rules(record: Record) -> None:
    match record.kind:
        case RecordKind.NODE:
            node = node_body(record)
            if record.id != record.author and not record.deleted:
                raise WireInvalid("A node record is written by another node.")
            _check_node(node)
        case RecordKind.REPLICA:
            replica = replica_body(record)
            if replica.node != record.author or record.id != replica_id(replica.package, replica.node):
                raise WireInvalid("A replica record is written by another node than the one it describes.")
            if not _PACKAGE_ID.fullmatch(replica.package):
                raise WireInvalid("A replica record names no package.")
            if replica.sha256:
                _check_digest("sha256", replica.sha256)
            if replica.presence not in list(Presence):
                raise WireInvalid(f'A replica record knows no presence "{replica.presence}".')
        case RecordKind.PACKAGE:
            _check_package(record)


def _check_node(node: NodeBody) -> None:
    try:
        check_url(node.url)
    except InvalidInput as exc:
        raise WireInvalid(f"A node record's URL is not valid: {exc.message}") from exc
    if node.tls_fingerprint:
        _check_digest("sha256", node.tls_fingerprint)


def _check_digest(kind: str, value: str) -> None:
    """Digests become file names and are compared as text: only their one form will do."""
    try:
        fits = check_digest(kind, value) == value
    except InvalidDigest as exc:
        raise WireInvalid(f"A record's digest is not valid: {exc.message}") from exc
    if not fits:
        raise WireInvalid(f"A record's {kind} is not in lower case.")


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
    if record.id != package_id(body.filename) or body.size < 0:
        raise WireInvalid(
            "A package record's id does not follow from its file name, or its size is negative."
        )


def package_body(record: Record) -> PackageBody:
    """The body of a package record. Raises WireInvalid."""
    return _body(_package, record)


def replica_body(record: Record) -> ReplicaBody:
    """The body of a replica record. Raises WireInvalid."""
    return _body(_replica, record)


def node_body(record: Record) -> NodeBody:
    """The body of a node record. Raises WireInvalid."""
    return _body(_node, record)


def _body(adapter: TypeAdapter[T], record: Record) -> T:
    try:
        return adapter.validate_python(record.body)
    except ValidationError as exc:
        first = exc.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise WireInvalid(
            f'The body of a {record.kind} record is not valid: "{field}": {first["msg"]}.'
        ) from exc
