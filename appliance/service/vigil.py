"""Looks after what a person must hear of in time: disk space, and this node's own certificate. Each once."""

import asyncio
import contextlib
import hashlib
import shutil
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.domain.errors import StaleRevision
from appliance.domain.event import EventType
from appliance.domain.job import Job
from appliance.jobs.new import new_job
from appliance.store.ports import Doc, Insert, Operation, Replace, Store

from .journal import SYSTEM, entry
from .trash import Usage

VIGIL_JOB = "vigil.look"
EVERY_S = 60.0
CERTIFICATE_DAYS = (30, 7, 1, 0)  #: left when it is told
CERTIFICATE = "certificate"  #: id of the notice that stands while the certificate is about to expire
_ENOUGH = 1.1  #: space is enough again above so many times the limit, so that it does not flutter


def vigil_job(now: int) -> Job:
    """The job that runs `Vigil.look`."""
    return new_job("duty", VIGIL_JOB, now)


class Vigil:
    """Looks, and logs an event when a limit is crossed."""

    def __init__(
        self,
        *,
        store: Store,
        data_dir: Path,
        disk_low: int,
        certificate: Path | None,
        node_id: str,
        now: Callable[[], int],
        free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
        trash: Callable[[], Awaitable[Usage]],
    ) -> None:
        """Make a vigil.

        Args:
            store: Keeps what was told.
            data_dir: The disk that is looked at.
            disk_low: Bytes below which free space is low; 0 says nothing.
            certificate: The PEM file that the node serves with, if any.
            node_id: The subject of the events.
            now: UTC milliseconds.
            free: Bytes that are free at a path.
            trash: What the trash holds.
        """
        self._trash = trash
        self._store = store
        self._data_dir = data_dir
        self._disk_low = disk_low
        self._certificate = certificate
        self._node_id = node_id
        self._now = now
        self._free = free

    async def look(self) -> None:
        """Look at everything."""
        await self.look_at_disk()
        await self.look_at_certificate()

    async def look_at_disk(self) -> None:
        """Tell when free space falls below the limit, and when there is enough again."""
        if not self._disk_low:
            return
        free = await asyncio.to_thread(self._free, self._data_dir)
        notice = await self._store.get("notices", "disk")
        was_low = notice is not None and notice["low"]
        is_low = free < self._disk_low * (_ENOUGH if was_low else 1)
        if is_low != was_low:
            type = EventType.DISK_LOW if is_low else EventType.DISK_RECOVERED
            trash = await self._trash()
            event = self._event(type, free=free, limit=self._disk_low, trash=trash.bytes)
            await self._tell(notice, {"_id": "disk", "low": is_low}, event)

    async def look_at_certificate(self) -> None:
        """Tell 30, 7 and 1 days before this node's certificate ends, and when it has; a file that is none is left."""
        if self._certificate is None:
            return
        try:
            loaded = x509.load_pem_x509_certificate(await asyncio.to_thread(self._certificate.read_bytes))
        except (OSError, ValueError):
            return  # it is being replaced; a node does not start with one that cannot be used
        ends = loaded.not_valid_after_utc
        left = (ends - datetime.fromtimestamp(self._now() / 1000, UTC)).total_seconds() / 86_400
        reached = min((days for days in CERTIFICATE_DAYS if left <= days), default=None)
        fingerprint = hashlib.sha256(loaded.public_bytes(Encoding.DER)).hexdigest()
        notice = await self._store.get("notices", CERTIFICATE)
        told = notice["days"] if notice is not None and notice["fingerprint"] == fingerprint else None
        if reached is None:  # it was replaced in time
            if notice is not None:
                await self._store.delete("notices", {"_id": CERTIFICATE})
            return
        if told is not None and told <= reached:
            return
        event = self._event(
            EventType.CERTIFICATE_EXPIRING,
            days=max(0, int(left)),
            expires_at=ends.isoformat(timespec="seconds").replace("+00:00", "Z"),
            fingerprint=fingerprint,
            file=str(self._certificate),
        )
        ends_at = round(ends.timestamp() * 1000)
        new = {"_id": CERTIFICATE, "fingerprint": fingerprint, "days": reached, "ends_at": ends_at}
        await self._tell(notice, new, event)

    async def _tell(self, notice: Doc | None, new: Doc, event: Insert) -> None:
        operations: list[Operation] = [Replace("notices", new, notice["_rev"] if notice else 0), event]
        with contextlib.suppress(StaleRevision):  # another process of this node told it
            await self._store.batch(operations)

    def _event(self, type: EventType, **data: Any) -> Insert:
        return entry(type, at=self._now(), actor=SYSTEM, subject=self._node_id, **data)
