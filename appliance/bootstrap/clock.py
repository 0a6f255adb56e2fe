"""The clock of a node."""

import time


def now_ms() -> int:
    """The time, UTC milliseconds."""
    return time.time_ns() // 1_000_000
