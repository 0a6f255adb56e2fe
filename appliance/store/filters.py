"""Filters: what a caller writes, checked against the schema and brought into few forms."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .documents import check_value
from .ports import Where
from .schema import Collection, FieldType

Operator = Literal["eq", "ne", "in", "lt", "lte", "gt", "gte"]

_COMPARISONS: dict[str, Operator] = {"lt": "lt", "lte": "lte", "gt": "gt", "gte": "gte"}
_MAX_IN = 10_000


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that must hold. `in` has a tuple, which may hold None; comparisons never have None."""

    field: str
    operator: Operator
    value: Any


def conditions(collection: Collection, where: Where | None) -> list[Condition]:
    """Return the conditions of a filter.

    Raises:
        ValueError: A field is not declared, a value is not of its type, or there is no such operator.
    """
    found: list[Condition] = []
    for field, wanted in (where or {}).items():
        kind = field_type(collection, field)
        if isinstance(wanted, Mapping):
            if not wanted:
                raise ValueError(f"The filter on {collection.name}.{field} is empty.")
            for operator, value in wanted.items():
                found += _operator(collection, field, kind, operator, value)
        else:
            found.append(Condition(field, "eq", check_value(collection, field, kind, wanted)))
    return found


def field_type(collection: Collection, field: str) -> FieldType:
    """Return the type of a field that may be filtered or sorted on.

    Raises:
        ValueError: It is not declared.
    """
    if field == "_id":
        return "text"
    try:
        return collection.fields[field]
    except KeyError:
        raise ValueError(
            f'"{field}" is not a declared field of {collection.name}; declare it in the schema to query it.'
        ) from None


def int_field(collection: Collection, field: str) -> None:
    """Let a field pass that holds whole numbers.

    Raises:
        ValueError: It is not declared, or is of another type.
    """
    if field_type(collection, field) != "int":
        raise ValueError(f"{collection.name}.{field} is not declared as int.")


def _operator(
    collection: Collection, field: str, kind: FieldType, operator: str, value: Any
) -> list[Condition]:
    if operator == "in":
        values = tuple(check_value(collection, field, kind, each) for each in value)
        if len(values) > _MAX_IN:
            raise ValueError(f"A filter names {len(values)} values; at most {_MAX_IN} are allowed.")
        return [Condition(field, "in", values)]
    if operator == "ne":
        return [Condition(field, "ne", check_value(collection, field, kind, value))]
    if operator not in _COMPARISONS and operator != "prefix":
        raise ValueError(f'There is no operator "{operator}".')
    if value is None or (operator == "prefix" and kind != "text"):
        raise ValueError(f"{collection.name}.{field} cannot be compared by {operator} with {value!r}.")
    checked = check_value(collection, field, kind, value)
    if operator != "prefix":
        return [Condition(field, _COMPARISONS[operator], checked)]
    # A range and no pattern, so that an index serves it and both databases agree.
    end = _after_prefix(checked)
    start = Condition(field, "gte", checked)
    return [start] if end is None else [start, Condition(field, "lt", end)]


def _after_prefix(prefix: str) -> str | None:
    """The smallest text greater than every text with this prefix; None if there is none."""
    for index in range(len(prefix) - 1, -1, -1):
        following = ord(prefix[index]) + 1
        if 0xD800 <= following <= 0xDFFF:
            following = 0xE000
        if following <= 0x10FFFF:
            return prefix[:index] + chr(following)
    return None
