"""The jobs that bring one MDM server and this network into line, as they are queued."""

from appliance.domain.job import Job
from appliance.jobs.new import new_job

SYNC_JOB = "mdm.sync"


HINT_JOB = "mdm.hint"


def hint_key(server_id: str) -> str:
    """At most one hint of a server waits."""
    return f"{HINT_JOB}:{server_id}"


def hint_job(server_id: str, now: int, *, run_at: int, reason: str) -> Job:
    """A sync that webhooks asked for: it waits apart, so that hints which come during a sync are gathered too.

    Args:
        server_id: The server.
        now: UTC milliseconds.
        run_at: When it becomes a sync, UTC milliseconds.
        reason: What it is for, for people.
    """
    return new_job(
        "default",
        HINT_JOB,
        now,
        key=hint_key(server_id),
        args={"server": server_id, "reason": reason},
        run_at=run_at,
    )


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
            lost is asked for with `Servers.ask`: it stays until a sync did it.
    """
    return new_job(
        "default",
        SYNC_JOB,
        now,
        key=sync_key(server_id),
        args={"server": server_id, "reason": reason},
        run_at=now + delay_ms,
    )
