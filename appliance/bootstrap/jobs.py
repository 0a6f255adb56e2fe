"""What the jobs of a node do, and which come again and again."""

from typing import TYPE_CHECKING

from appliance.domain.job import ONCE, Job, RetryPolicy
from appliance.jobs.context import JobContext
from appliance.jobs.runner import Runner
from appliance.service.anti_entropy import COMPARE_JOB, compare_job
from appliance.service.bringing import Bringing
from appliance.service.fetch_jobs import FETCH_JOB, FETCH_SMALL_JOB
from appliance.service.holdings import RELEASE_CHECK_JOB
from appliance.service.maintenance import PURGE_JOB, purge_job
from appliance.service.newcomers import RECHECK_JOB, recheck_job
from appliance.service.notifications.deliveries import QUEUE, SEND_JOB
from appliance.service.release_check import UNTIL_PROVEN
from appliance.service.replication import RECONCILE_JOB, reconcile_job
from appliance.service.restore import RESTORE_JOB
from appliance.service.scrub import EVERY_S as SCRUB_EVERY_S
from appliance.service.scrub import SCRUB_JOB, scrub_job
from appliance.service.verify_jobs import LOOK_JOB, VERIFY_BLOB_JOB, VERIFY_JOB, look_job
from appliance.service.verifying import LOOK_S
from appliance.service.vigil import EVERY_S, VIGIL_JOB, vigil_job
from appliance.service.watchdog import EVERY_S as WATCH_EVERY_S
from appliance.service.watchdog import WATCHDOG_JOB, watchdog_job
from appliance.store.layout import Layout

from .clock import now_ms

if TYPE_CHECKING:
    from .graph import Graph

FETCHING = RetryPolicy(attempts=40, base_s=2.0, cap_s=300.0)
PURGE_EVERY_S = 600.0
SCRUB_FIRST_S = 60.0


def register_jobs(graph: "Graph", runner: Runner, layout: Layout) -> None:
    """Say what each kind of job does, and which come again and again."""
    app = graph.app
    bringing = Bringing(
        layout=layout, blobs=app.blobs, holdings=app.holdings, transfers=app.transfers,
        peers=app.peers, pool=graph.pool, hashing=runner.pool("hash"), metrics=app.metrics,
        connections=app.settings.transfers.connections, now=now_ms,
        verified=graph.verified, verifying=app.verifying,
    )  # fmt: skip

    async def gave_up(job: Job, error: str) -> None:
        await app.transfers.give_up(job.args["package"], error, job.args.get("sha256", ""))

    async def reconcile(_job: Job, _context: JobContext) -> None:
        await app.replication.reconcile()
        await app.transfers.close_unwanted()

    async def watch(_job: Job, _context: JobContext) -> None:
        await app.watchdog.look()

    async def compare(job: Job, _context: JobContext) -> None:
        await app.anti_entropy.run(job)

    async def purge(_job: Job, _context: JobContext) -> None:
        await graph.maintenance.purge()
        await graph.maintenance.sweep()
        await app.notifications.deliveries.purge()

    async def look(_job: Job, _context: JobContext) -> None:
        await app.trash.make_room(0)
        await graph.vigil.look()

    async def look_at_files(_job: Job, _context: JobContext) -> None:
        await app.verifying.look()

    async def recheck(_job: Job, _context: JobContext) -> None:
        await app.accounts.newcomers.recheck()

    runner.register(FETCH_JOB, bringing.run, queue="transfer", policy=FETCHING, on_failed=gave_up)
    runner.register(FETCH_SMALL_JOB, bringing.run_small, queue="small", policy=FETCHING, on_failed=gave_up)
    runner.register(VERIFY_JOB, app.verifying.run, queue="hash", policy=ONCE)
    runner.register(RESTORE_JOB, app.restore.run, queue="hash")
    runner.register(RELEASE_CHECK_JOB, app.release_check.run, queue="release", policy=UNTIL_PROVEN)
    runner.register(VERIFY_BLOB_JOB, app.verifying.run_blob, queue="hash")
    runner.register(LOOK_JOB, look_at_files, queue="duty", policy=ONCE)
    runner.register(SCRUB_JOB, app.scrub.run, queue="default", policy=ONCE)
    runner.register(RECONCILE_JOB, reconcile, queue="duty", policy=ONCE)
    runner.register(WATCHDOG_JOB, watch, queue="duty", policy=ONCE)
    runner.register(COMPARE_JOB, compare, queue="duty", policy=ONCE)
    runner.register(PURGE_JOB, purge, queue="duty", policy=ONCE)
    graph.bridge.register(runner)
    runner.register(VIGIL_JOB, look, queue="duty", policy=ONCE)
    runner.register(RECHECK_JOB, recheck, queue="default", policy=ONCE)
    runner.register(SEND_JOB, app.notifications.sending.run, queue=QUEUE)
    runner.every(RECONCILE_JOB, app.settings.replication.reconcile_s, lambda: reconcile_job(now_ms()))
    runner.every(WATCHDOG_JOB, WATCH_EVERY_S, lambda: watchdog_job(now_ms()))
    runner.every(COMPARE_JOB, app.settings.replication.digest_s, lambda: compare_job(now_ms()))
    runner.every(PURGE_JOB, PURGE_EVERY_S, lambda: purge_job(now_ms()))
    runner.every(LOOK_JOB, LOOK_S, lambda: look_job(now_ms()))
    runner.every(SCRUB_JOB, SCRUB_EVERY_S, lambda: scrub_job(now_ms()), first_s=SCRUB_FIRST_S)
    runner.every(VIGIL_JOB, EVERY_S, lambda: vigil_job(now_ms()), first_s=1.0)
    runner.every(RECHECK_JOB, app.settings.directory.recheck_s, lambda: recheck_job(now_ms()))
