"""Documents on their way to a database: checked, and turned into BSON and back, for both stores alike."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import bson
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions
from bson.errors import InvalidDocument, InvalidStringData

from .ports import Doc
from .schema import COLLECTIONS, Collection, FieldType

CODEC: CodecOptions[Doc] = CodecOptions(
    document_class=dict, tz_aware=True, tzinfo=UTC, uuid_representation=UuidRepresentation.STANDARD
)
MAX_BYTES = 16 * 1024 * 1024 - 16 * 1024  #: what MongoDB takes, less room for its own wrapping

_LEAST, _MOST = -(2**63), 2**63 - 1


def collection_of(name: str) -> Collection:
    """Return the declaration of a collection.

    Raises:
        ValueError: It is not declared.
    """
    try:
        return COLLECTIONS[name]
    except KeyError:
        raise ValueError(f'There is no collection "{name}" in the schema.') from None


def encode(doc: Mapping[str, Any], *, limit: int = MAX_BYTES) -> bytes:
    """Return a document as BSON of at most `limit` bytes.

    Raises:
        ValueError: It has no string `_id`, is too large, or holds something that cannot be stored.
    """
    if not isinstance(doc.get("_id"), str):
        raise ValueError("A document needs an _id that is a string.")
    for key, value in doc.items():
        if not isinstance(key, str) or key.startswith("$"):
            raise ValueError(f"{key!r} cannot be the name of a field.")
        _refuse_naive(value)
    try:
        body = bson.encode(doc, codec_options=CODEC)
    except (InvalidDocument, InvalidStringData, OverflowError) as exc:
        raise ValueError(f"This document cannot be stored: {exc}") from exc
    if len(body) > limit:
        raise ValueError(f"A document of {len(body)} bytes is too large; at most {limit} are stored.")
    return body


def decode(body: bytes) -> Doc:
    """Return the document of these bytes."""
    return bson.decode(body, codec_options=CODEC)


def declared_values(collection: Collection, doc: Mapping[str, Any]) -> list[Any]:
    """The values of the declared fields, in order, None where one is missing.

    Raises:
        ValueError: A value is not of the declared type.
    """
    return [check_value(collection, name, kind, doc.get(name)) for name, kind in collection.fields.items()]


def check_value(collection: Collection, name: str, kind: FieldType, value: Any) -> Any:
    """Return the value of a declared field as a plain str, int or bool, or None.

    Raises:
        ValueError: It is of another type than declared.
    """
    if value is None:
        return None
    if kind == "text" and isinstance(value, str):
        return str(value)
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind == "int" and isinstance(value, int) and not isinstance(value, bool) and _LEAST <= value <= _MOST:
        return int(value)
    raise ValueError(f"{collection.name}.{name} is declared as {kind}; {value!r:.80} is not.")


def _refuse_naive(value: Any) -> None:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("A datetime without a time zone cannot be stored.")
    elif isinstance(value, Mapping):
        for inner in value.values():
            _refuse_naive(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _refuse_naive(inner)
