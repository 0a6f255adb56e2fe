"""Decides about, and writes, the distribution point records of one MDM server: the intent first, then the call."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from appliance.domain.errors import ApplianceError
from appliance.domain.event import EventType
from appliance.domain.mdm_errors import MdmRefused
from appliance.service.journal import SYSTEM, entry
from appliance.store.ports import Doc, Insert, Store

from ..driver import Driver, NodeFacts
from ..servers.server import Server
from .documents import PointState, remove_point, write_point
from .node_facts import facts_mark
from .places import is_principal, same_place, same_server

log = logging.getLogger(__name__)

MISSES = 2  #: lists that lack a record, and the MDM's word that there is none of its id, before it counts as deleted


@dataclass(slots=True)
class PointsSummary:
    """How many nodes' records ended how."""

    written: int = 0
    unchanged: int = 0
    conflicts: int = 0
    removed: int = 0
    failed: int = 0  #: refused, now or at the last look
    missing: int = 0  #: a record that is known was not listed; it is looked for again soon


class PointWriting:
    """One run over one server."""

    def __init__(
        self,
        *,
        store: Store,
        server: Server,
        driver: Driver,
        now: Callable[[], int],
        known: Sequence[Mapping[str, Any]],
        owners: Mapping[str, str],
    ) -> None:
        """Begin a run.

        Args:
            store: Where rows and events are.
            server: The server.
            driver: Its driver.
            now: UTC milliseconds.
            known: Every distribution point record, as it was just listed.
            owners: Node ids by the ids of the records that are ours.
        """
        self._store = store
        self._server = server
        self._driver = driver
        self._now = now
        self._known: list[Mapping[str, Any]] = []
        self._owners = owners
        self._by_id: dict[str, Mapping[str, Any]] = {}
        self._by_name: dict[str, list[Mapping[str, Any]]] = {}
        for record in known:
            self._add(record)
        self._created: set[str] = set()
        self.summary = PointsSummary()

    async def look(self, facts: NodeFacts, row: Doc) -> None:
        """Bring a node's record into line.

        Args:
            facts: What it should say.
            row: What is known of it.

        Raises:
            MdmError: The server cannot be called now; a refusal of this one record is written into the row instead.
        """
        there, row = await self._there(row)
        if there is None and 0 < row.get("misses", 0) < MISSES:
            self.summary.missing += 1
            return
        if there is not None and row["ours"]:
            await self._ensure(facts, row, remote_id=row["remote_id"], sent=row["sent"])
            return
        if there is not None and same_place(facts.url, there):
            await self._adopt(facts, row, there)
            return
        same = self._by_name.get(_key(facts.record_name), [])
        if same:
            await self._named(facts, row, same)
        elif _key(facts.record_name) in self._created:
            await self._conflict(
                row,
                f'Another node\'s record is called "{facts.record_name}"; give the nodes different names, or put '
                "{{ id }} into points.name.",
            )
        elif row["remote_id"] and row["ours"] and row["remade"] == facts_mark(facts):
            where = self._server.config.name
            text = f"It was deleted in {where}; it is made again when the node or the settings change."
            self.summary.unchanged += 1
            await self._write(row, {**row, "state": str(PointState.DELETED), "error": text})
        else:
            await self._create(facts, row)

    async def _there(self, row: Doc) -> tuple[Mapping[str, Any] | None, Doc]:
        """A row's record, asked for by its id if the list lacks it; and the row, with how often the list did."""
        if not row["remote_id"]:
            return None, row
        there = self._by_id.get(row["remote_id"])
        if there is None and row["state"] != PointState.DELETED:
            there = await self._driver.find_distribution_point(row["remote_id"])
            if there is not None:
                self._add(there)
        misses = row.get("misses", 0) + 1 if there is None and row["state"] != PointState.DELETED else 0
        return there, await self._write(row, {**row, "misses": min(misses, MISSES)})

    def _add(self, record: Mapping[str, Any]) -> None:
        self._known.append(record)
        self._by_id[str(record["id"])] = record
        self._by_name.setdefault(_key(str(record.get("name", ""))), []).append(record)

    async def _named(self, facts: NodeFacts, row: Doc, same: Sequence[Mapping[str, Any]]) -> None:
        """There are records of this name, which are not known to be this node's."""
        free = [record for record in same if self._owners.get(str(record["id"]), row["node"]) == row["node"]]
        at_place = next((record for record in free if same_place(facts.url, record)), None)
        if at_place is None:
            await self._conflict(
                row,
                f'"{facts.record_name}" in {self._server.config.name} is another distribution point; it was left '
                "alone. Rename one of the two (points.name).",
            )
        elif row["absent"]:
            # It was not there when an interrupted run began to create it: it is the one that was created.
            await self._ensure(facts, {**row, "ours": True}, remote_id=str(at_place["id"]), sent={})
        else:
            await self._adopt(facts, row, at_place)

    async def _create(self, facts: NodeFacts, row: Doc) -> None:
        remade = facts_mark(facts) if row["remote_id"] and row["ours"] else row["remade"]
        self._created.add(_key(facts.record_name))
        intent = {"state": str(PointState.CREATING), "absent": True, "error": "", "remade": remade}
        begun_before = row["absent"]
        row = await self._write(row, {**row, **intent, "name": facts.record_name})
        await self._ensure(facts, row, remote_id="", sent={}, begun_before=begun_before)

    async def _ensure(
        self,
        facts: NodeFacts,
        row: Doc,
        *,
        remote_id: str,
        sent: Mapping[str, Any],
        begun_before: bool | None = None,
    ) -> None:
        try:
            result = await self._driver.ensure_distribution_point(
                facts, remote_id=remote_id, sent=sent, known=self._known
            )
        except MdmRefused as exc:
            # An earlier try, whose answer was lost, may have created it all the same: that stays known.
            absent = row["absent"] if begun_before is None else begun_before
            await self.fail({**row, "absent": absent}, exc)
            return
        self.summary.conflicts += bool(result.conflict)
        self.summary.written += result.changed and not result.conflict
        self.summary.unchanged += not result.changed and not result.conflict
        after = {
            **row,
            "name": facts.record_name,
            "remote_id": result.remote_id,
            "ours": result.created or (row["ours"] and result.remote_id == remote_id),
            "absent": False,
            "misses": 0,
            "state": str(PointState.CONFLICT if result.conflict else PointState.MIRRORED),
            "error": result.conflict,
            "sent": dict(result.sent),
        }
        events = [self._event(after, created=result.created)] if result.changed else []
        await self._write(row, after, *events)

    async def _adopt(self, facts: NodeFacts, row: Doc, record: Mapping[str, Any]) -> None:
        """Take somebody else's record of the node's server and port as the node's; it is never written."""
        self.summary.unchanged += 1
        after = {"name": facts.record_name, "remote_id": str(record["id"]), "ours": False, "absent": False}
        await self._write(row, {**row, **after, "state": str(PointState.MIRRORED), "error": "", "sent": {}})

    async def _conflict(self, row: Doc, reason: str) -> None:
        self.summary.conflicts += 1
        await self._write(row, {**row, "absent": False, "state": str(PointState.CONFLICT), "error": reason})

    async def fail(self, row: Doc, error: ApplianceError) -> None:
        """Note that a record was refused; it is tried again later."""
        self.summary.failed += 1
        log.warning(error.message, extra={"action": "mdm_point_failed", "mdm": self._server.id})
        await self._write(row, {**row, "state": str(PointState.FAILED), "error": error.message})

    async def gone(self, row: Doc) -> None:
        """See to the record of a node that has left the network.

        Raises:
            MdmError: As for `look`.
        """
        there, row = await self._there(row)
        if there is None and row["ours"] and 0 < row.get("misses", 0) < MISSES:
            self.summary.missing += 1
            return
        if there is None or not row["ours"]:
            await remove_point(self._store, row)
            return
        kept = "It was left, as the settings say." if not self._server.config.points.remove else ""
        if is_principal(there):
            kept = "It is the principal distribution point; choose another one, then delete it by hand."
        if not kept and not await self._still_ours(row):
            kept = "Its record is another one now; it was left alone."
        if kept:
            await self._write(
                row, {**row, "state": str(PointState.LEFT), "error": f"The node has left the network. {kept}"}
            )
            return
        try:
            await self._driver.remove_distribution_point(row["remote_id"])
        except MdmRefused as exc:
            await self.fail(row, exc)
            return
        self.summary.removed += 1
        await remove_point(self._store, row, self._event(row, removed=True))

    async def _still_ours(self, row: Doc) -> bool:
        """Whether the record of an id is still what we made: after a restore of the MDM it may be somebody else's."""
        now = await self._driver.find_distribution_point(row["remote_id"])
        if now is None:
            return True  # deleted meanwhile
        named = _key(str(now.get("name", ""))) == _key(row["name"])
        return not is_principal(now) and (named or same_server(row["sent"], now))

    async def _write(self, before: Doc, after: Doc, *events: Insert) -> Doc:
        return await write_point(self._store, before, after, self._now(), *events)

    def _event(self, row: Doc, **data: Any) -> Insert:
        return entry(
            EventType.MDM_POINT_WRITTEN,
            at=self._now(),
            actor=SYSTEM,
            subject=row["node"],
            server=self._server.config.name,
            name=row["name"],
            remote=row["remote_id"],
            **data,
        )


def _key(name: str) -> str:
    """MDMs may compare names without regard to case."""
    return name.strip().casefold()
