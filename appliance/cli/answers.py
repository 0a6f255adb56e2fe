"""Whether an answer has the shape that the admin API gives it: what is no node may answer with JSON too.

A field may be missing, since an older node does not know it: only a command that reads it cannot go on.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from appliance.api.operations import OPERATIONS, Operation
from appliance.api.schemas import SCHEMAS, TEXT, YES, Schema, array, object_of

READY: Schema = object_of(
    {
        "status": TEXT,
        "checks": {"type": "object", "additionalProperties": object_of({"ok": YES, "reason": TEXT})},
        "warnings": array(TEXT),
    }
)  #: of `/health/ready`

_KINDS: dict[str, type | tuple[type, ...]] = {
    "object": Mapping,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


class Answer(dict[str, Any]):
    """A JSON object of an answer; reading a field that it does not have is a fault of the answer."""

    def __init__(self, fields: Mapping[str, Any], foreign: Callable[[str], Exception]) -> None:
        super().__init__(fields)
        self._foreign = foreign

    def __missing__(self, name: str) -> Any:
        raise self._foreign(f"{name} is missing")


def answer_schema(method: str, path: str) -> Schema | None:
    """What a call answers; None for nothing.

    Args:
        method: In capitals.
        path: Below /api/v1.
    """
    segments = path.split("/")
    fitting = [one for one in OPERATIONS if one.method == method.lower() and _fits(one, segments)]
    answer = min(fitting, key=lambda one: one.path.count("{")).answer
    if not answer.startswith("["):
        return SCHEMAS[answer] if answer else None
    next_: Schema = {"type": ["string", "integer", "null"]}
    return object_of({"items": array(SCHEMAS[answer[1:-1]]), "next": next_})


def _fits(operation: Operation, segments: Sequence[str]) -> bool:
    known = operation.path.split("/")
    return len(known) == len(segments) and all(
        one == other or one.startswith("{") for one, other in zip(known, segments, strict=True)
    )


def misfit(value: Any, schema: Schema, where: str = "") -> str:
    """What about a value is not as its schema wants it, in a few words; "" if nothing."""
    if "$ref" in schema:
        return misfit(value, SCHEMAS[schema["$ref"].rpartition("/")[2]], where)
    if "anyOf" in schema:
        found = [misfit(value, one, where) for one in schema["anyOf"]]
        return "" if "" in found else found[0]
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        return f"{where or 'it'} is no {kinds[0]}"
    if isinstance(value, str) and schema.get("format") == "date-time" and not _is_moment(value):
        return f"{where} is no time"
    if isinstance(value, list) and "items" in schema:
        return _first(misfit(item, schema["items"], f"{where}[{at}]") for at, item in enumerate(value))
    if isinstance(value, Mapping):
        return _misfit_object(value, schema, f"{where}." if where else "")
    return ""


def _misfit_object(value: Mapping[str, Any], schema: Schema, prefix: str) -> str:
    required = schema.get("required", ())
    if required and not any(name in value for name in required):
        return f"{prefix}{required[0]} is missing"
    known, others = schema.get("properties", {}), schema.get("additionalProperties", {})
    return _first(misfit(item, known.get(name, others), f"{prefix}{name}") for name, item in value.items())


def _first(faults: Any) -> str:
    return next(filter(None, faults), "")


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, _KINDS[kind])


def _is_moment(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False
