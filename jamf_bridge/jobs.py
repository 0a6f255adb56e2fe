"""The job that brings one MDM server and this network into line, as it is queued."""

import secrets

from appliance.domain.job import Job

SYNC_JOB = "mdm.sync"


def sync_key(server_id: str) -> str:
    """At most one sync of a server is queued or runs."""
    return f"{SYNC_JOB}:{server_id}"


def sync_job(server_id: str, now: int, *, delay_ms: int = 0, reason: str = "") -> Job:
    """A sync of one server; what asks for another while one waits or runs is joined to it.

    Args:
        server_id: The server.
        now: UTC milliseconds.
        delay_ms: Not before so many milliseconds from now.
        reason: What it is for, in the job's arguments. A job that is joined to another loses it: what must not be
            lost is asked for with `Servers.ask`.
    """
    return Job(
        id=secrets.token_hex(12),
        queue="default",
        name=SYNC_JOB,
        args={"server": server_id, "reason": reason},
        key=sync_key(server_id),
        run_at=now + delay_ms,
        created_at=now,
        updated_at=now,
    )
