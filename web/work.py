"""Transfers and jobs."""

from typing import Annotated, Any
from urllib.parse import urlencode

from appliance.api.cursors import after, encode
from appliance.api.models import JobsQuery, TransfersQuery
from appliance.api.parameters import Choice
from appliance.api.views import transfer_json
from appliance.api.work import transfers_of
from appliance.domain.states import JobState, TransferState

from .pages import PageHandler
from .wording import job_view

PAGE = 50
OPEN = "open"  #: jobs that wait, run or gave up


class TransfersPage(PageHandler):
    """`/ui/transfers`."""

    title = "Transfers"
    section = "/ui/transfers"

    async def get(self) -> None:
        """What is brought here, the last changed first."""
        query = self.query_as(TransfersQuery)
        package = transfers_of(self, query.package)
        where = {name: value for name, value in (("state", query.state), ("package", package)) if value}
        docs = await self.app.transfers.page(where, limit=PAGE + 1, after=after(query.cursor))
        shown = docs[:PAGE]
        cursor = encode([shown[-1]["updated_at"], shown[-1]["_id"]]) if len(docs) > PAGE else ""
        times = await self.app.transfers.retry_times(shown)
        self.page(
            "transfers.html",
            items=[transfer_json(doc, times[doc["_id"]]) for doc in shown],
            query=query,
            states=[str(state) for state in TransferState],
            next=f"/ui/transfers?{urlencode({**where, 'cursor': cursor})}" if cursor else "",
        )


class _JobsFilter(JobsQuery):
    """Which jobs the page lists: it has a word of its own for those that are not over."""

    state: Annotated[str, Choice([OPEN, *JobState])] = ""


class JobsPage(PageHandler):
    """`/ui/jobs`."""

    title = "Jobs"
    section = "/ui/jobs"

    async def get(self) -> None:
        """Deferred work, the last changed first."""
        query = self.query_as(_JobsFilter)
        state = query.state if "state" in self.request.query_arguments else OPEN
        given = {"state": state, "queue": query.queue, "name": query.name}
        where: dict[str, Any] = {name: value for name, value in given.items() if value}
        if state == OPEN:
            where["state"] = {"in": [str(one) for one in (JobState.TODO, JobState.DOING, JobState.FAILED)]}
        jobs = await self.app.store.find_jobs(where, limit=PAGE + 1, after=after(query.cursor))
        shown = jobs[:PAGE]
        cursor = encode([shown[-1].updated_at, shown[-1].id]) if len(jobs) > PAGE else ""
        self.page(
            "jobs.html",
            items=[job_view(job, self.app) for job in shown],
            chosen=state,
            states=[OPEN, *(str(one) for one in JobState)],
            next=f"/ui/jobs?{urlencode({**given, 'cursor': cursor})}" if cursor else "",
        )
