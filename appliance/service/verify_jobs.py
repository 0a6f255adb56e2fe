"""What is written when a file of this node is to be verified."""

from appliance.domain.job import Job
from appliance.jobs.new import new_job

VERIFY_JOB = "package.verify"  #: what a person asks for
VERIFY_BLOB_JOB = "blob.verify"  #: what the node asks for
LOOK_JOB = "blob.look"  #: every hour


def verify_job(package: str, actor: str, now: int) -> Job:
    """The job that verifies the file of a held package."""
    return new_job(
        "hash", VERIFY_JOB, now, key=f"verify:{package}", args={"package": package, "actor": actor}
    )


def verify_blob_job(sha256: str, now: int) -> Job:
    """The job that verifies a blob, whoever is served from it; once for all who ask."""
    return new_job("hash", VERIFY_BLOB_JOB, now, key=f"{VERIFY_BLOB_JOB}:{sha256}", args={"sha256": sha256})


def look_job(now: int) -> Job:
    """The job that looks at every held file."""
    return new_job("duty", LOOK_JOB, now)
