"""Notices packages that are wanted here and do not move, and tells people why: an alert, a metric and an event.

It only counts; what makes packages move is the reconciler (`holdings`). A package counts when nothing came of it for
`replication.stuck_after_s`, whatever the reason: a source that is down, a wrong record, or a fault of ours. So does one
whose newest record could not be carried out for so long (`unsettled`).
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from appliance.domain.errors import StaleRevision
from appliance.domain.event import EventType
from appliance.domain.job import Job
from appliance.domain.package import WANTED, Package
from appliance.domain.states import TransferState
from appliance.jobs.new import new_job
from appliance.store.ports import Doc, Remove, Replace, Store

from .catalogue import Catalogue
from .fetch_jobs import cancelled_by_person, transfer_id
from .journal import SYSTEM, entry
from .unsettled import read_unsettled

WATCHDOG_JOB = "replication.watchdog"
EVERY_S = 30.0
NOTICE = "stuck"  #: id of the notice that stands while a package is stuck
SHOWN = 10  #: packages that an event and an alert name
_PAGE = 500
_QUEUED = {str(TransferState.PENDING)}
_BEGUN = [str(state) for state in TransferState if state is not TransferState.PENDING]


def watchdog_job(now: int) -> Job:
    """The job that runs `Watchdog.look`."""
    return new_job("duty", WATCHDOG_JOB, now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck:
    """A package that should be here, is not, and does not move."""

    package: str  #: its id
    filename: str
    since: int  #: UTC milliseconds: when something of it last moved
    reason: str


class Watchdog:
    """Counts what is wanted and does not move."""

    def __init__(
        self, *, store: Store, catalogue: Catalogue, after_s: float, node_id: str, now: Callable[[], int]
    ) -> None:
        """Make a watchdog.

        Args:
            store: Keeps transfers, and what was told.
            catalogue: The packages.
            after_s: Seconds without a byte after which a package is stuck.
            node_id: The subject of the events.
            now: UTC milliseconds.
        """
        self._store = store
        self._catalogue = catalogue
        self._after_ms = round(after_s * 1000)
        self._node_id = node_id
        self._now = now

    async def look(self) -> list[Stuck]:
        """Look at every package; what is newly stuck, or moves again, is an event."""
        stuck = await self._stuck()
        notice = await self._store.get("notices", NOTICE)
        told = set(notice["packages"]) if notice is not None else set()
        news = [one for one in stuck if one.package not in told]
        if not stuck and notice is None:
            return []
        now = self._now()
        doc: Doc = {
            "_id": NOTICE,
            "count": len(stuck),
            "packages": [one.package for one in stuck],
            "first": [
                {"filename": one.filename, "since": one.since, "reason": one.reason} for one in stuck[:SHOWN]
            ],
        }
        operations: list[Any] = []
        if news:
            operations.append(self._event(EventType.REPLICATION_STUCK, now, news, len(stuck)))
        elif not stuck:
            operations.append(self._event(EventType.REPLICATION_RECOVERED, now, [], 0))
        with contextlib.suppress(StaleRevision):  # another process of this node looked too
            if stuck:
                changed = notice is None or any(notice[name] != doc[name] for name in doc)
                keep = [Replace("notices", doc, notice["_rev"] if notice else 0)] if changed else []
                await self._store.batch([*keep, *operations])
            else:
                await self._store.batch([Remove("notices", NOTICE), *operations])
        return stuck

    async def notice(self) -> Mapping[str, Any] | None:
        """What was found at the last look: `count`, and of the `first` few name, since and reason; None if nothing."""
        return await self._store.get("notices", NOTICE)

    async def _stuck(self) -> list[Stuck]:
        found = await self._unsettled()
        known = {one.package for one in found}
        wanted = [
            package
            for package in self._catalogue.all()
            if package.presence in WANTED and package.id not in known
        ]
        now, moved = self._now(), await self._last_moved() if wanted else 0
        late = [package for package in wanted if now - package.wanted_since > self._after_ms]
        for start in range(0, len(late), _PAGE):
            part = late[start : start + _PAGE]
            ids = [transfer_id(package.id, package.body.sha256) for package in part]
            docs = await self._store.find("transfers", {"_id": {"in": ids}}, limit=_PAGE)
            transfers = {doc["_id"]: doc for doc in docs}
            for package, id in zip(part, ids, strict=True):
                since = _since(package, transfers.get(id), moved)
                if since is not None and now - since > self._after_ms:
                    found.append(
                        Stuck(
                            package=package.id,
                            filename=package.body.filename,
                            since=since,
                            reason=package.reason,
                        )
                    )
        return sorted(found, key=lambda one: (one.since, one.filename))

    async def _unsettled(self) -> list[Stuck]:
        """Packages that cannot be settled for long: this node may hold an earlier version, or nothing at all."""
        late = self._now() - self._after_ms
        return [
            Stuck(
                package=doc["package"],
                filename=doc["filename"],
                since=doc["since"],
                reason=f"its newest record cannot be carried out here and is tried again: {doc['reason']}",
            )
            for doc in await read_unsettled(self._store)
            if doc["since"] < late
        ]

    async def _last_moved(self) -> int:
        """When bytes of any package last came, UTC milliseconds."""
        docs = await self._store.find(
            "transfers", {"state": {"in": _BEGUN}}, order="updated_at", descending=True, limit=_PAGE
        )
        return max((doc.get("moved_at", 0) for doc in docs), default=0)

    def _event(self, type: EventType, at: int, stuck: list[Stuck], count: int) -> Any:
        named = [f"{one.filename}: {one.reason}" for one in stuck[:SHOWN]]
        more = {"packages": named} if named else {}
        return entry(type, at=at, actor=SYSTEM, subject=self._node_id, count=count, **more)


def _since(package: Package, transfer: Doc | None, node_moved_at: int) -> int | None:
    """Since when nothing moves, UTC milliseconds; None for what a person stopped."""
    if cancelled_by_person(transfer):
        return None
    since = package.wanted_since
    if transfer is not None:
        moved_at = transfer.get("moved_at", 0)
        since = max(since, moved_at, transfer.get("started_at", 0))
        failed = transfer.get("failed_at", 0) > moved_at  # that it begins again is no sign of life
        if transfer["state"] in _QUEUED and not failed:  # its turn has not come: it moves when the queue does
            since = max(since, node_moved_at)
    return since
