"""Moments in sentences."""

from datetime import UTC, datetime


def clock(at: int) -> str:
    """The time of day of UTC milliseconds."""
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%H:%M:%S UTC")
