"""Signs records of this node again that it wrote while its clock was wrong.

Such a record is further ahead than other nodes take, so it stays here until its time comes. Once a peer agrees with
this node's clock, the clock is right and the record is not: it is written again, with the time that it is.
"""

import asyncio
import logging

from appliance.domain.errors import OUTAGES, StaleRevision
from appliance.domain.record import RecordKind
from appliance.store.ports import Store

from .holdings import Holdings
from .records import Records

log = logging.getLogger(__name__)

EVERY_S = 30.0


class RecordRepair:
    """Looks after records that are ahead of the clock."""

    def __init__(self, *, store: Store, records: Records, holdings: Holdings, node_id: str) -> None:
        self._store = store
        self._records = records
        self._holdings = holdings
        self._node_id = node_id

    async def follow(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.look()
            except OUTAGES:
                continue

    async def look(self) -> int:
        """Sign again what this node wrote ahead of the time, if its clock is known to be right; return how many."""
        if not self._records.clock_trusted() or not self._records.may_write():
            return 0
        count = 0
        for key in [key for key, own in self._records.ahead.items() if own]:
            kind, _, id = key.partition(":")
            count += await self._sign_again(RecordKind(kind), id)
        if count:
            log.warning(
                "records that were written while the clock was wrong were signed again",
                extra={"action": "records_signed_again", "count": count},
            )
            self._holdings.on_written()
        return count

    async def _sign_again(self, kind: RecordKind, id: str) -> bool:
        known = await self._records.known(kind, id)
        record = known.record
        if record is None or record.author != self._node_id or not self._records.is_ahead(record):
            self._records.ahead.pop(f"{kind}:{id}", None)
            return False  # another took its place meanwhile, or its time came
        _, operation = self._records.write(kind, id, record.body, known, deleted=record.deleted)
        try:
            await self._store.batch([operation])
        except StaleRevision:
            return False
        self._records.ahead.pop(f"{kind}:{id}", None)
        if kind is RecordKind.PACKAGE:
            await self._holdings.settle_many([id])
        return True
