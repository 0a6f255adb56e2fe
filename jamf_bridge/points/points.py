"""Keeps a distribution point record in an MDM for every node of the network.

Records are listed at most once a run, and not at all while nothing changed here and the last look was less than an
hour ago. A record is ours if we created it. One of the same name that is not ours is left alone: if it names the
node's own server and port it is taken as the node's record, and never written; else it is a conflict, which is
shown. A record of ours that somebody deleted in the MDM is made again once; deleted again, it stays away until the
node or the settings change. Only records of ours are removed, and only if the settings say so and the network says
that the node left: one whose record is missing here may be there. A record of ours counts as deleted when two lists
lacked it and the MDM says of its id that there is none.
"""

import functools
import hashlib
from collections.abc import Awaitable, Callable

from appliance.domain.errors import InvalidInput
from appliance.domain.moment import too_early
from appliance.service.holdings import Holdings
from appliance.store.ports import Store

from ..driver import Driver
from ..mirror.limited_calls import call_all
from ..servers.server import Server
from .documents import PointState, new_point, points_of
from .node_facts import node_facts
from .segments import suggestions
from .writing import PointsSummary, PointWriting

__all__ = ["Points", "PointsSummary"]

AT_ONCE = 4  #: calls of the driver
LOOK_MS = 3_600_000  #: between two looks while nothing changes
AFTER_FAULT_MS = 600_000  #: between two looks while a record is refused


class Points:
    """Keeps the nodes' distribution point records of MDM servers."""

    def __init__(self, *, store: Store, holdings: Holdings, now: Callable[[], int]) -> None:
        self._store = store
        self._holdings = holdings
        self._now = now
        self._looked: dict[
            str, tuple[str, int, PointsSummary]
        ] = {}  #: server: what was wanted, next look, result

    async def run(self, server: Server, driver: Driver) -> PointsSummary:
        """Bring the distribution point records of a server into line with the network.

        Raises:
            MdmError: The server cannot be called now. What was done is noted; the next run goes on.
            StaleRevision: Another run works on the same server.
        """
        nodes = dict(self._holdings.nodes)
        config = server.config.points
        mark = hashlib.sha256(repr((server.rev, config, sorted(nodes.items()))).encode()).hexdigest()
        before = self._looked.get(server.id)
        if before is not None and before[0] == mark and too_early(before[1], self._now(), LOOK_MS):
            last = before[2]
            return PointsSummary(
                unchanged=last.written + last.unchanged, conflicts=last.conflicts, failed=last.failed
            )
        self._looked.pop(server.id, None)
        known = await driver.list_distribution_points()
        rows = await points_of(self._store, server.id)
        writing = PointWriting(
            store=self._store,
            server=server,
            driver=driver,
            now=self._now,
            known=known,
            owners={row["remote_id"]: row["node"] for row in rows.values() if row["ours"]},
        )
        calls: list[Callable[[], Awaitable[None]]] = []
        for id, node in sorted(nodes.items()):
            row = rows.pop(id, None) or new_point(server.id, id)
            try:
                calls.append(functools.partial(writing.look, node_facts(id, node, config), row))
            except InvalidInput as exc:
                calls.append(functools.partial(writing.fail, row, exc))
        left = await self._holdings.left(rows)
        gone = [row for id, row in rows.items() if id in left or row["state"] == PointState.LEFT]
        calls += [functools.partial(writing.gone, row) for row in gone]
        await call_all(calls, at_once=AT_ONCE)
        wait = AFTER_FAULT_MS if writing.summary.failed else LOOK_MS
        if writing.summary.missing:
            wait = 0
        self._looked[server.id] = (mark, self._now() + wait, writing.summary)
        return writing.summary

    async def suggest_segments(self, server: Server, driver: Driver) -> list[dict[str, str]]:
        """Network segments without a distribution point, or with one that is gone; nothing is written.

        Returns:
            Per segment "name", "start", "end", "distribution_point" and "suggestion", a sentence.

        Raises:
            MdmError: The server cannot be called now.
            InvalidInput: The template of the records' names cannot be filled in.
        """
        segments = await driver.segments()
        points = await driver.list_distribution_points() if segments else []
        config = server.config.points
        nodes = [node_facts(id, node, config) for id, node in sorted(self._holdings.nodes.items())]
        return suggestions(segments, points, nodes)
