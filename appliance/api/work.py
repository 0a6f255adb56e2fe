"""Transfers and jobs: look, retry, cancel, put first."""

from typing import Any

from appliance.domain.errors import JobUnknown
from appliance.domain.event import EventType
from appliance.domain.names import is_package_id
from appliance.domain.states import JobState, TransferState
from appliance.store.ports import Doc

from .base import BaseHandler
from .cursors import after, encode
from .models import JobsQuery, TransfersQuery
from .views import job_json, transfer_json

_ACTIVE = {JobState.TODO, JobState.DOING}


class TransfersHandler(BaseHandler):
    """`/api/v1/transfers`."""

    query = TransfersQuery

    async def get(self) -> None:
        """Transfers, the last changed first."""
        query = self.query_as(TransfersQuery)
        package = transfers_of(self, query.package)
        where = {name: value for name, value in (("state", query.state), ("package", package)) if value}
        docs = await self.app.transfers.page(where, limit=query.limit + 1, after=after(query.cursor))
        page = docs[: query.limit]
        following = encode([page[-1]["updated_at"], page[-1]["_id"]]) if len(docs) > len(page) else None
        times = await self.app.transfers.retry_times(page)
        items = [transfer_json(doc, times[doc["_id"]]) for doc in page]
        self.write_json({"items": items, "next": following})


def transfers_of(handler: BaseHandler, package: str) -> str:
    """The id of the package whose transfers are asked for by its id or file name; "" for all.

    Raises:
        PackageUnknown: There is no package of this name. One of an id may be gone and have transfers still.
    """
    return package if not package or is_package_id(package) else handler.app.catalogue.resolve(package).id


class TransferHandler(BaseHandler):
    """`/api/v1/transfers/{id}`."""

    async def get(self, id: str) -> None:
        """One transfer."""
        await write_transfer(self, await self.app.transfers.get(id))


class TransferActionHandler(BaseHandler):
    """`/api/v1/transfers/{id}/retry`, `/cancel` and `/prioritize`."""

    async def post(self, id: str, action: str) -> None:
        """Do it."""
        transfers = self.app.transfers
        act, event = {
            "retry": (transfers.retry, EventType.TRANSFER_RETRIED),
            "cancel": (transfers.cancel, EventType.TRANSFER_CANCELLED),
            "prioritize": (transfers.prioritize, EventType.TRANSFER_PRIORITIZED),
        }[action]
        before = await transfers.get(id)
        doc = await act(id, actor=self.actor)
        after = str(TransferState.CANCELLED) if action == "cancel" else doc["state"]  # it ends soon
        await self.app.events.record(
            event,
            actor=self.actor,
            subject=doc["package"],
            filename=doc["filename"],
            before={"state": before["state"]},
            after={"state": after},
        )
        await write_transfer(self, doc)


async def write_transfer(handler: BaseHandler, doc: Doc) -> None:
    """Answer with one transfer."""
    times = await handler.app.transfers.retry_times([doc])
    handler.write_json(transfer_json(doc, times[doc["_id"]]))


class JobsHandler(BaseHandler):
    """`/api/v1/jobs`."""

    query = JobsQuery

    async def get(self) -> None:
        """Jobs, the last changed first."""
        query = self.query_as(JobsQuery)
        where: dict[str, Any] = {
            name: value for name in ("state", "queue", "name") if (value := getattr(query, name))
        }
        jobs = await self.app.store.find_jobs(where, limit=query.limit + 1, after=after(query.cursor))
        page = jobs[: query.limit]
        following = encode([page[-1].updated_at, page[-1].id]) if len(jobs) > len(page) else None
        self.write_json({"items": [job_json(job) for job in page], "next": following})


class JobHandler(BaseHandler):
    """`/api/v1/jobs/{id}`."""

    async def get(self, id: str) -> None:
        """One job."""
        job = await self.app.store.get_job(id)
        if job is None:
            raise JobUnknown(f"There is no job {id}.")
        self.write_json(job_json(job))


class JobActionHandler(BaseHandler):
    """`/api/v1/jobs/{id}/retry`, `/cancel` and `/prioritize`."""

    async def post(self, id: str, action: str) -> None:
        """Do it."""
        store = self.app.store
        act, event = {
            "retry": (store.retry_job, EventType.JOB_RETRIED),
            "cancel": (store.cancel_job, EventType.JOB_CANCELLED),
            "prioritize": (store.prioritize_job, EventType.JOB_PRIORITIZED),
        }[action]
        before = await store.get_job(id)
        if action == "cancel" and before and before.state in _ACTIVE:
            await self.app.transfers.job_cancelled(before, actor=self.actor)
        job = await act(id, now=self.app.now())
        if action == "retry":
            await self.app.transfers.job_retried(job)
        await self.app.events.record(
            event,
            actor=self.actor,
            subject=id,
            name=job.name,
            before={"state": str(before.state) if before else ""},
            after={"state": str(job.state)},
        )
        self.write_json(job_json(job))
