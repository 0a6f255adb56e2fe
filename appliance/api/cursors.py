"""Cursors of lists: the place behind which the next page begins, as one opaque word."""

import base64
import json
from typing import Any

from appliance.domain.errors import InvalidInput
from appliance.domain.record import MAX_NUMBER


def encode(place: list[Any]) -> str:
    """The cursor of a place."""
    return (
        base64.urlsafe_b64encode(json.dumps(place, separators=(",", ":")).encode())
        .decode("ascii")
        .rstrip("=")
    )


def decode(cursor: str, kind: type[str] | type[int]) -> list[Any]:
    """The place of a cursor: a value and an id.

    Args:
        cursor: As `encode` made it.
        kind: Of the value, by which the list is sorted.

    Raises:
        InvalidInput: It is none of ours.
    """
    try:
        place = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
        value, id = place
        if (
            type(value) is not kind
            or type(id) is not str
            or (isinstance(value, int) and abs(value) > MAX_NUMBER)
        ):
            raise ValueError("not a place in this list")
        f"{value}{id}".encode()  # halves of surrogate pairs pass the parser
    except (ValueError, TypeError, RecursionError) as exc:
        raise InvalidInput(
            "The cursor is not valid; take `next` of the page before, or begin without one."
        ) from exc
    return [value, id]


def after(cursor: str) -> tuple[int, str] | None:
    """The place for a store's `find` by a number, or None for the first page."""
    if not cursor:
        return None
    value, id = decode(cursor, int)
    return value, id
