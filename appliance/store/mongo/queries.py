"""Filters and pages in MongoDB's words."""

from collections.abc import Sequence
from typing import Any

from appliance.store.filters import Condition

Query = dict[str, Any]


def matching(conditions: Sequence[Condition]) -> Query:
    """The query of a filter."""
    parts = [_part(condition) for condition in conditions]
    if not parts:
        return {}
    return parts[0] if len(parts) == 1 else {"$and": parts}


def _part(condition: Condition) -> Query:
    if condition.operator == "eq":
        return {condition.field: condition.value}  # None matches a missing field as well
    value = list(condition.value) if condition.operator == "in" else condition.value
    return {condition.field: {f"${condition.operator}": value}}


def behind(order: str, descending: bool, after: tuple[Any, str] | None) -> Query:
    """The query for what comes after a document in the order of (`order`, `_id`)."""
    if after is None:
        return {}
    value, id_ = after
    comparison = "$lt" if descending else "$gt"
    if order == "_id":
        return {"_id": {comparison: id_}}
    same = {order: value, "_id": {comparison: id_}}
    if value is None:  # None sorts first
        return same if descending else {"$or": [same, {order: {"$ne": None}}]}
    further: list[Query] = [same, {order: {comparison: value}}]
    if descending:
        further.append({order: None})
    return {"$or": further}
