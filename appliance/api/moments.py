"""Moments as people name them in a query: a day or a time of a time zone."""

import datetime
from zoneinfo import ZoneInfo

from appliance.domain.errors import InvalidInput

_DAY = datetime.timedelta(days=1)


def moment(field: str, text: str | None, zone: str, *, end: bool = False) -> int | None:
    """UTC milliseconds of a moment, or None for none.

    Args:
        field: What to call it in an error.
        text: ISO 8601: "2026-07-23", or "2026-07-23T14:00" with or without an offset.
        zone: The IANA time zone of what has no offset.
        end: Whether the end of the day is meant, if it is a day.

    Raises:
        InvalidInput: It is no moment, or there is no such zone.
    """
    try:
        place = ZoneInfo(zone or "UTC")
    except (KeyError, ValueError, OSError) as exc:
        raise InvalidInput(
            f'There is no time zone "{zone}".', fields={"zone": "Not a time zone of IANA."}
        ) from exc
    if not text:
        return None
    try:
        at = datetime.datetime.fromisoformat(text)
        if end and len(text) <= len("2026-07-23"):
            at += _DAY
        return round((at if at.tzinfo else at.replace(tzinfo=place)).timestamp() * 1000)
    except (ValueError, OverflowError, OSError) as exc:
        reason = "Give a day such as 2026-07-23, or a time such as 2026-07-23T14:00+02:00."
        raise InvalidInput(f'"{text}" is no moment. {reason}', fields={field: reason}) from exc
