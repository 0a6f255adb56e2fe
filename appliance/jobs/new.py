"""Jobs before they are queued."""

import secrets
from collections.abc import Mapping
from typing import Any

from appliance.domain.job import Job


def new_job(
    queue: str,
    name: str,
    now: int,
    *,
    key: str = "",
    args: Mapping[str, Any] | None = None,
    run_at: int | None = None,
) -> Job:
    """A job of a new id, to be queued.

    Args:
        queue: One of `QUEUES`.
        name: What to do.
        now: UTC milliseconds.
        key: At most one active job has it; its name if left out: one for the whole node.
        args: What the function needs to know; values that JSON has.
        run_at: Not before, UTC milliseconds; at once if left out.
    """
    return Job(
        id=secrets.token_hex(12),
        queue=queue,
        name=name,
        args=args or {},
        key=key or name,
        run_at=now if run_at is None else run_at,
        created_at=now,
        updated_at=now,
    )
