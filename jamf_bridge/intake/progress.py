"""A pull as people see it: a transfer whose source is the MDM server."""

import time
from collections.abc import Callable

from appliance.domain.errors import ApplianceError, StaleRevision
from appliance.domain.manifest import CHUNK_SIZE, chunk_count
from appliance.domain.names import package_id
from appliance.domain.states import TransferState
from appliance.service.uploads import Upload
from appliance.store.ports import Doc, Store

from ..servers.server import Server

EVERY_S = 1.0


def transfer_id(package: str, upload: str) -> str:
    """The id of the transfer that fills an upload."""
    return f"{package}-{upload[:16]}"


class Cancelled(Exception):
    """A person cancelled the transfer."""


class PullProgress:
    """Writes how far a pull is, at most every second, and notices that somebody cancelled it."""

    def __init__(self, store: Store, doc: Doc, now: Callable[[], int]) -> None:
        self._store = store
        self._doc = doc
        self._now = now
        self._written = time.monotonic()
        self._began_at = doc["bytes_done"]

    @classmethod
    async def begin(
        cls, store: Store, upload: Upload, row: Doc, server: Server, now: Callable[[], int]
    ) -> "PullProgress":
        """The transfer of an upload that an MDM server fills, new or continued.

        Args:
            store: Where it is written.
            upload: The upload.
            row: The record's row.
            server: The server.
            now: UTC milliseconds.
        """
        package = package_id(upload.filename)
        id = transfer_id(package, upload.id)
        old = await store.get("transfers", id)
        doc: Doc = {
            "_id": id,
            "package": package,
            "filename": upload.filename,
            "sha256": upload.sha256,
            "size": upload.size or 0,
            "state": str(TransferState.FETCHING),
            "bytes_done": upload.offset,
            "chunks_done": upload.offset // CHUNK_SIZE,
            "chunks": chunk_count(upload.size or 0),
            "rate": 0.0,
            "sources": [
                {
                    "node": f"mdm:{server.id}",
                    "name": server.config.name,
                    "bytes": 0,
                    "chunks": 0,
                    "strikes": 0,
                }
            ],
            "error": "",
            "attempts": old["attempts"] + 1 if old else 1,
            "started_at": old["started_at"] if old else now(),
            "updated_at": now(),
            "pull": {"server": server.id, "remote": row["remote"]},
        }
        return cls(store, await store.replace("transfers", doc), now)

    async def advanced(self, offset: int) -> None:
        """So many bytes are here.

        Raises:
            Cancelled: Somebody cancelled the transfer.
        """
        moment = time.monotonic()
        passed = moment - self._written
        if passed < EVERY_S:
            return
        rate = (offset - self._doc["bytes_done"]) / passed
        self._written = moment
        self._doc["rate"] = round(rate if not self._doc["rate"] else 0.7 * self._doc["rate"] + 0.3 * rate, 1)
        self._count(offset)
        await self._write()

    def _count(self, offset: int) -> None:
        fetched = offset - self._began_at
        self._doc.update(bytes_done=offset, chunks_done=offset // CHUNK_SIZE)
        self._doc["sources"][0].update(bytes=fetched, chunks=fetched // CHUNK_SIZE)

    async def stalled(self, error: ApplianceError | None) -> None:
        """It ended for now; without an error because the node stops."""
        state = TransferState.STALLED if error else TransferState.PENDING
        await self._end(state, error.message if error else "")

    async def done(self) -> None:
        """Every byte is here and published."""
        self._count(self._doc["size"])
        self._doc["chunks_done"] = self._doc["chunks"]
        await self._end(TransferState.DONE, "")

    async def dropped(self, reason: str) -> None:
        """It is not wanted any more."""
        await self._end(TransferState.CANCELLED, reason)

    async def _end(self, state: TransferState, error: str) -> None:
        self._doc.update(state=str(state), error=error, rate=0.0)
        try:
            await self._write()
        except Cancelled:
            return

    async def _write(self) -> None:
        try:
            self._doc = await self._store.replace(
                "transfers", {**self._doc, "updated_at": self._now()}, expect=self._doc["_rev"]
            )
        except StaleRevision:
            stored = await self._store.get("transfers", self._doc["_id"])
            if stored is None or stored["state"] == TransferState.CANCELLED:
                raise Cancelled from None
            self._doc["_rev"] = stored["_rev"]
