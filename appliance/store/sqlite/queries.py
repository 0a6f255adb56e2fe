"""SQL for filters and pages. Names come from the schema, values are always parameters."""

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from appliance.store.documents import decode
from appliance.store.filters import Condition
from appliance.store.ports import Doc
from appliance.store.schema import Collection

_COMPARE = {"eq": "IS", "ne": "IS NOT", "lt": "<", "lte": "<=", "gt": ">", "gte": ">="}

Clause = tuple[str, list[Any]]


def select(collection: Collection) -> str:
    """The start of a query whose rows `document` reads."""
    sequence = f'"{collection.sequence}"' if collection.sequence else "NULL"
    return f'SELECT _rev, {sequence}, _body FROM "{collection.name}"'  # noqa: S608


def document(collection: Collection, row: Sequence[Any]) -> Doc:
    """The document of a row of `select`."""
    rev, sequence, body = row
    return complete(collection, body, rev, sequence)


def complete(collection: Collection, body: bytes, rev: int, sequence: int | None) -> Doc:
    """The document of a stored body with what its columns hold."""
    doc = decode(body)
    doc["_rev"] = rev
    if collection.sequence:
        doc[collection.sequence] = sequence
    return doc


def matching(conditions: Sequence[Condition]) -> Clause:
    """The condition of a filter; never empty."""
    parts: list[str] = []
    values: list[Any] = []
    for condition in conditions:
        if condition.operator == "in":
            some = [value for value in condition.value if value is not None]
            part = f'"{condition.field}" IN ({", ".join("?" * len(some))})'
            if len(some) < len(condition.value):
                part = f'({part} OR "{condition.field}" IS NULL)'
            parts.append(part)
            values += some
        elif condition.value is None:
            parts.append(f'"{condition.field}" {_COMPARE[condition.operator]} NULL')
        elif condition.operator == "eq":
            parts.append(f'"{condition.field}" = ?')
            values.append(condition.value)
        else:
            parts.append(f'"{condition.field}" {_COMPARE[condition.operator]} ?')
            values.append(condition.value)
    return " AND ".join(parts) or "1", values


def find(
    connection: sqlite3.Connection,
    collection: Collection,
    conditions: Sequence[Condition],
    *,
    order: str,
    descending: bool,
    limit: int,
    after: tuple[Any, str] | None,
) -> list[Doc]:
    """One page of documents."""
    clause, values = matching(conditions)
    direction = "DESC" if descending else "ASC"
    ordering = f"_id {direction}" if order == "_id" else f'"{order}" {direction}, _id {direction}'
    rows: list[Any] = []
    for part, more in _continuations(order, descending, after):
        rows += connection.execute(
            f"{select(collection)} WHERE {clause} AND {part} ORDER BY {ordering} LIMIT ?",
            [*values, *more, limit - len(rows)],
        ).fetchall()
        if len(rows) >= limit:
            break
    return [document(collection, row) for row in rows]


def sums(
    connection: sqlite3.Connection, collection: Collection, field: str, *, low_bits: int
) -> dict[int, tuple[int, int]]:
    """Count documents and add up the low bits of a field, for each value of its other bits.

    A range of the index for each: SQLite would sort all rows to group them (measured: three times as long).
    """
    found: dict[int, tuple[int, int]] = {}
    mask, value = (1 << low_bits) - 1, 0
    while True:
        (value,) = connection.execute(
            f'SELECT min("{field}") FROM "{collection.name}" WHERE "{field}" >= ?',  # noqa: S608
            (value,),
        ).fetchone()
        if value is None:
            return found
        group = value >> low_bits
        end = (group + 1) << low_bits
        row = connection.execute(
            f'SELECT count(*), sum("{field}" & ?) FROM "{collection.name}" '  # noqa: S608
            f'WHERE "{field}" >= ? AND "{field}" < ?',
            (mask, value, end),
        ).fetchone()
        found[group] = (int(row[0]), int(row[1]))
        value = end


def values(
    connection: sqlite3.Connection, collection: Collection, field: str, *, first: int, end: int, limit: int
) -> list[int]:
    """The values of a field in a range, in order."""
    rows = connection.execute(
        f'SELECT "{field}" FROM "{collection.name}" WHERE "{field}" >= ? AND "{field}" < ? '  # noqa: S608
        f'ORDER BY "{field}" LIMIT ?',
        (first, end, limit),
    )
    return [row[0] for row in rows]


def _continuations(order: str, descending: bool, after: tuple[Any, str] | None) -> Iterator[Clause]:
    # NULL sorts first. It is its own query, because an OR would keep SQLite from starting in the index.
    comparison = "<" if descending else ">"
    if after is None:
        yield "1", []
    elif order == "_id":
        yield f"_id {comparison} ?", [after[1]]
    elif after[0] is None:
        yield f'"{order}" IS NULL AND _id {comparison} ?', [after[1]]
        if not descending:
            yield f'"{order}" IS NOT NULL', []
    else:
        yield f'("{order}", _id) {comparison} (?, ?)', list(after)
        if descending:
            yield f'"{order}" IS NULL', []
