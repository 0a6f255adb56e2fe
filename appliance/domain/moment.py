"""Moments in sentences, and waits that end."""

from datetime import UTC, datetime

_SLACK_MS = 60_000  #: processes look at the clock and write a moment later


def clock(at: int) -> str:
    """The time of day of UTC milliseconds."""
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%H:%M:%S UTC")


def written_ahead(at: int, now: int) -> bool:
    """Whether something was noted while the clock was ahead: its time has yet to come."""
    return at > now + _SLACK_MS


def too_early(until: int, now: int, longest: int) -> bool:
    """Whether a wait is not over.

    One that would last longer than any does was written while the clock was ahead: it is over.

    Args:
        until: When it ends, UTC milliseconds.
        now: UTC milliseconds.
        longest: How long the longest wait of its kind lasts, in milliseconds.
    """
    return now < until <= now + longest + _SLACK_MS
