"""Takes in records that peers pass on: each is verified, and kept if it outranks what is known.

A record that is refused costs its relay a strike and nothing else: the rest of the page is taken, and the feed
goes on behind it. So it does behind one that the database does not take.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from appliance.domain.errors import OUTAGES, DuplicateKey, InvalidInput, SignatureRefused, StaleRevision
from appliance.domain.record import Record, RecordKind
from appliance.jobs.run import describe
from appliance.peering.records import check_time, parse_record, verify_record
from appliance.store.ports import Operation, Replace, Store

from .holdings import Holdings
from .records import Known, Records
from .trash import Trash

log = logging.getLogger(__name__)

_TRIES = 8


class Intake:
    """The door for records of other nodes."""

    def __init__(
        self,
        *,
        store: Store,
        records: Records,
        holdings: Holdings,
        trash: Trash,
        node_id: str,
        strike: Callable[[str, str], Awaitable[None]],
        refused: Callable[[str, int], None],
        now: Callable[[], int],
    ) -> None:
        """Make one.

        Args:
            store: Where records are kept.
            records: Reads them.
            holdings: Settles the packages that they touch.
            trash: Keeps the bytes of records that they replace.
            node_id: This node's id.
            strike: Counts what a peer did wrong: its id, and what it was.
            refused: Counts refused records: an error code, and how many.
            now: UTC milliseconds.
        """
        self._store = store
        self._records = records
        self._holdings = holdings
        self._trash = trash
        self._node_id = node_id
        self._strike = strike
        self._refused = refused
        self._now = now
        self.on_own_record: Callable[[Record], Awaitable[None]] | None = None
        self.on_node: Callable[[Record], Awaitable[None]] | None = None

    async def take(self, peer: str, raw: Sequence[Any], extra: Sequence[Operation] = ()) -> list[Record]:
        """Verify and keep records, then settle the packages that they touch.

        Args:
            peer: Id of the peer that passed them on; refused records count against it.
            raw: Records as they came.
            extra: Operations to do in the same write: the feed position.

        Returns:
            The records that were new.
        """
        good, faults = await asyncio.to_thread(_verified, raw, self._now())
        if faults:
            for code, count in Counter(fault.code for fault in faults).items():
                self._refused(code, count)
            reason = faults[0].message[:500]
            log.warning(
                "records were refused",
                extra={"action": "records_refused", "peer": peer, "count": len(faults), "reason": reason},
            )
            await self._strike(peer, f"forged or broken records, {len(faults)} of {len(raw)}: {reason}")
        try:
            winners = await self._keep(good, extra)
        except OUTAGES:
            raise
        except (StaleRevision, DuplicateKey, ValueError):
            winners = await self._keep_each(peer, good)
            if extra:
                await self._store.batch(extra)
        if winners:
            self._holdings.on_written()
            await self._follow_up(winners)
        return winners

    async def _keep(self, records: Sequence[Record], extra: Sequence[Operation] = ()) -> list[Record]:
        """Keep records that outrank what is known, and do `extra` in the same write; return those that were new.

        Raises:
            StaleRevision, DuplicateKey, ValueError: One of them cannot be kept; nothing was written.
        """
        for attempt in range(_TRIES):
            winners, operations = await self._winners(records)
            try:
                if operations or extra:
                    await self._store.batch([*operations, *extra])
            except StaleRevision:  # another feed brought it just now
                if attempt == _TRIES - 1:
                    raise
            else:
                return winners
        raise AssertionError("a try returns or raises")

    async def _keep_each(self, peer: str, records: Sequence[Record]) -> list[Record]:
        """Keep records one by one: the database does not take one of them, and the feed goes on without it."""
        winners: list[Record] = []
        for record in records:
            try:
                winners += await self._keep([record])
            except OUTAGES:
                raise
            except (StaleRevision, DuplicateKey, ValueError) as exc:
                reason = describe(exc)
                self._refused("record_not_kept", 1)
                log.error(
                    "a record cannot be kept and is skipped",
                    extra={
                        "action": "record_not_kept",
                        "peer": peer,
                        "record": record.key_in_store[:200],
                        "reason": reason,
                    },
                )
                if isinstance(exc, ValueError):  # the others are faults of our own database
                    await self._strike(peer, f"a record that cannot be kept: {reason}")
        return winners

    async def _winners(self, records: Sequence[Record]) -> tuple[list[Record], list[Operation]]:
        best: dict[str, Record] = {}
        for record in records:
            if record.outranks(best.get(record.key_in_store)):
                best[record.key_in_store] = record
        winners: list[Record] = []
        operations: list[Operation] = []
        for kind in RecordKind:
            mine = [record for record in best.values() if record.kind is kind]
            known = await self._records.known_many(kind, [record.id for record in mine])
            for record in mine:
                old = known.get(record.id, Known(record=None, rev=0))
                if record.outranks(old.record, self._now(), old.replaced):
                    winners.append(record)
                    operations.append(Replace("records", old.followed_by(record), old.rev))
                    operations += await self._trash.passed_over(old.record, record)
                elif record.author == self._node_id and (doc := old.undone_by(record)) is not None:
                    winners.append(
                        record
                    )  # an older copy of our database forgot it, and what we wrote since undoes it
                    operations.append(Replace("records", doc, old.rev))
        return winners, operations

    async def _follow_up(self, winners: Sequence[Record]) -> None:
        if any(record.kind is RecordKind.NODE for record in winners):
            await self._holdings.refresh_nodes()
            for record in winners:
                if record.kind is RecordKind.NODE and self.on_node is not None:
                    await self.on_node(record)
        packages: list[str] = []
        for record in winners:
            if record.kind is RecordKind.PACKAGE:
                packages.append(record.id)
            elif record.kind is RecordKind.REPLICA:
                package, _, node = record.id.partition(".")
                if node != self._node_id and self._holdings.cares_for_replicas_of(package, node):
                    packages.append(package)
        await self._holdings.settle_many(packages)
        if self.on_own_record is not None:
            for record in winners:
                if self._is_own(record):
                    await self.on_own_record(record)

    def _is_own(self, record: Record) -> bool:
        """Whether another life of this node wrote it, or another node says that this one is gone."""
        return record.author == self._node_id or (
            record.kind is RecordKind.NODE and record.id == self._node_id
        )


def _verified(raw: Sequence[Any], now: int) -> tuple[list[Record], list[InvalidInput | SignatureRefused]]:
    good: list[Record] = []
    faults: list[InvalidInput | SignatureRefused] = []
    for item in raw:
        try:
            record = parse_record(item)
            verify_record(record)
            check_time(record, now)
        except (InvalidInput, SignatureRefused) as exc:
            faults.append(exc)
        else:
            good.append(record)
    return good, faults
