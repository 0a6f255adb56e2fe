"""What the jobs of a node do, and which come again and again."""

from typing import TYPE_CHECKING

from appliance.domain.job import Job, RetryPolicy
from appliance.jobs.context import JobContext
from appliance.jobs.runner import Runner
from appliance.service.anti_entropy import COMPARE_JOB, compare_job
from appliance.service.bringing import Bringing
from appliance.service.fetch_jobs import FETCH_JOB, FETCH_SMALL_JOB
from appliance.service.maintenance import PURGE_JOB, purge_job
from appliance.service.newcomers import RECHECK_JOB, recheck_job
from appliance.service.notifications.deliveries import QUEUE, SEND_JOB
from appliance.service.packages import VERIFY_JOB
from appliance.service.replication import RECONCILE_JOB, reconcile_job
from appliance.service.vigil import EVERY_S, VIGIL_JOB, vigil_job
from appliance.store.layout import Layout

from .clock import now_ms

if TYPE_CHECKING:
    from .graph import Graph

FETCHING = RetryPolicy(attempts=40, base_s=2.0, cap_s=300.0)
ONCE = RetryPolicy(attempts=1)
PURGE_EVERY_S = 600.0


def register_jobs(graph: "Graph", runner: Runner, layout: Layout) -> None:
    """Say what each kind of job does, and which come again and again."""
    app = graph.app
    bringing = Bringing(
        store=app.store, layout=layout, blobs=app.blobs, holdings=app.holdings, transfers=app.transfers,
        peers=app.peers, pool=graph.pool, hashing=runner.pool("hash"), metrics=app.metrics,
        connections=app.settings.transfers.connections, now=now_ms,
    )  # fmt: skip

    async def gave_up(job: Job, error: str) -> None:
        await app.transfers.give_up(job.args["package"], error)

    async def reconcile(_job: Job, _context: JobContext) -> None:
        await app.replication.reconcile()

    async def compare(job: Job, _context: JobContext) -> None:
        await app.anti_entropy.run(job)

    async def purge(_job: Job, _context: JobContext) -> None:
        await graph.maintenance.purge()
        await app.notifications.deliveries.purge()

    async def look(_job: Job, _context: JobContext) -> None:
        await graph.vigil.look()

    async def recheck(_job: Job, _context: JobContext) -> None:
        await app.accounts.newcomers.recheck()

    runner.register(FETCH_JOB, bringing.run, queue="transfer", policy=FETCHING, on_failed=gave_up)
    runner.register(FETCH_SMALL_JOB, bringing.run_small, queue="small", policy=FETCHING, on_failed=gave_up)
    runner.register(VERIFY_JOB, app.verifying.run, queue="hash", policy=ONCE)
    runner.register(RECONCILE_JOB, reconcile, queue="default", policy=ONCE)
    runner.register(COMPARE_JOB, compare, queue="default", policy=ONCE)
    runner.register(PURGE_JOB, purge, queue="default", policy=ONCE)
    graph.bridge.register(runner)
    runner.register(VIGIL_JOB, look, queue="default", policy=ONCE)
    runner.register(RECHECK_JOB, recheck, queue="default", policy=ONCE)
    runner.register(SEND_JOB, app.notifications.sending.run, queue=QUEUE)
    runner.every(app.settings.replication.reconcile_s, lambda: reconcile_job(now_ms()))
    runner.every(app.settings.replication.digest_s, lambda: compare_job(now_ms()))
    runner.every(PURGE_EVERY_S, lambda: purge_job(now_ms()))
    runner.every(EVERY_S, lambda: vigil_job(now_ms()), first_s=1.0)
    runner.every(app.settings.directory.recheck_s, lambda: recheck_job(now_ms()))
