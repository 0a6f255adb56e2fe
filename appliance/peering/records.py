"""Signed records: their JSON form, their signature, and the checks that any node can make alone.

The signature covers the RFC 8785 canonical JSON of all fields but itself. The author's public key is in the
record and hashes to the author's id, so a record proves its origin whoever relays it. Fields of a body that this
version does not know are kept and passed on: they are part of what was signed.
"""

import base64
from collections.abc import Mapping
from typing import Any

import rfc8785

from appliance.domain.errors import RecordAhead, SignatureInvalid, WireInvalid
from appliance.domain.names import node_id
from appliance.domain.record import (
    AHEAD_MS,
    MAX_NESTING,
    MAX_NUMBER,
    Record,
    RecordKind,
    ahead_ms,
    nested_too_deep,
    oddity,
)

from .identity import Identity, signature_holds
from .record_bodies import check_rules, node_body, package_body, replica_body

__all__ = [
    "check_rules",
    "check_time",
    "node_body",
    "package_body",
    "parse_record",
    "record_json",
    "replica_body",
    "sign_record",
    "verify_record",
]

MAX_RECORD_BYTES = 65_536
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
        if not fits or (isinstance(value, int) and not 0 <= value <= MAX_NUMBER):
            raise WireInvalid(f'The field "{name}" of a record is not valid.')
    if item["revision"] < 1:
        raise WireInvalid("The revision of a record is a positive number.")
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
    check_rules(record)


def check_time(record: Record, now: int) -> None:
    """Refuse a record that is further ahead of the clock than nodes' clocks differ: it would outrank all others.

    Args:
        record: The record.
        now: UTC milliseconds.

    Raises:
        RecordAhead: Its revision or its time is more than an hour ahead.
    """
    ahead = ahead_ms(record, now)
    if ahead > AHEAD_MS:
        raise RecordAhead(
            f"A {record.kind} record of {record.author[:8]} is {span(ahead)} ahead of this node's clock; "
            "more than an hour is refused. Check the clocks of both nodes (NTP)."
        )


def span(milliseconds: int) -> str:
    """A stretch of time for people, rounded."""
    hours = milliseconds / 3_600_000
    return f"{hours:.1f} hours" if hours < 72 else f"{hours / 24:,.0f} days"


def _canonical(fields: Mapping[str, Any]) -> bytes:
    """What a signature covers."""
    if nested_too_deep(fields):
        raise WireInvalid(f"A record has at most {MAX_NESTING} levels of objects and lists.")
    if (odd := oddity(fields)) is not None:
        raise WireInvalid(f"A record cannot have {odd}.")
    try:
        data: bytes = rfc8785.dumps(dict(fields))
    except (rfc8785.CanonicalizationError, RecursionError, UnicodeError) as exc:
        raise WireInvalid("A record holds values that have no canonical form.") from exc
    if len(data) > MAX_RECORD_BYTES:
        raise WireInvalid(f"A record has at most {MAX_RECORD_BYTES} bytes; this one has {len(data)}.")
    return data
