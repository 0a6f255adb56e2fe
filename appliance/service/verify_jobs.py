"""What is written when a file of this node is to be verified."""

import secrets

from appliance.domain.job import Job

VERIFY_JOB = "package.verify"  #: what a person asks for
VERIFY_BLOB_JOB = "blob.verify"  #: what the node asks for
LOOK_JOB = "blob.look"  #: every hour


def verify_job(package: str, actor: str, now: int) -> Job:
    """The job that verifies the file of a held package."""
    return Job(
        id=secrets.token_hex(12),
        queue="hash",
        name=VERIFY_JOB,
        args={"package": package, "actor": actor},
        key=f"verify:{package}",
        run_at=now,
        created_at=now,
    )


def verify_blob_job(sha256: str, now: int) -> Job:
    """The job that verifies a blob, whoever is served from it; once for all who ask."""
    return Job(
        id=secrets.token_hex(12),
        queue="hash",
        name=VERIFY_BLOB_JOB,
        args={"sha256": sha256},
        key=f"{VERIFY_BLOB_JOB}:{sha256}",
        run_at=now,
        created_at=now,
    )


def look_job(now: int) -> Job:
    """The job that looks at every held file."""
    return Job(
        id=secrets.token_hex(12), queue="default", name=LOOK_JOB, key=LOOK_JOB, run_at=now, created_at=now
    )
