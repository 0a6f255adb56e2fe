"""Cursors of lists: the place behind which the next page begins, as one opaque word."""

import base64
import binascii
import json
from typing import Any

from appliance.domain.errors import InvalidInput


def encode(place: list[Any]) -> str:
    """The cursor of a place."""
    return (
        base64.urlsafe_b64encode(json.dumps(place, separators=(",", ":")).encode())
        .decode("ascii")
        .rstrip("=")
    )


def decode(cursor: str, length: int = 2) -> list[Any]:
    """The place of a cursor.

    Raises:
        InvalidInput: It is none of ours.
    """
    try:
        place = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (ValueError, RecursionError, binascii.Error) as exc:
        raise InvalidInput(
            "The cursor is not valid; take `next` of the page before, or begin without one."
        ) from exc
    if (
        not isinstance(place, list)
        or len(place) != length
        or not all(isinstance(x, str | int) for x in place)
    ):
        raise InvalidInput("The cursor is not valid; take `next` of the page before, or begin without one.")
    return place


def after(cursor: str) -> tuple[Any, str] | None:
    """The place for a store's `find`, or None for the first page."""
    if not cursor:
        return None
    value, id = decode(cursor)
    return value, str(id)
