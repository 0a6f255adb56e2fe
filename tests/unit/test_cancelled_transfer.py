"""A transfer that a person cancels while a job works on it."""

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from appliance.domain.package import Package, Presence
from appliance.domain.states import TransferState
from appliance.service.fetch_jobs import fetch_key, new_transfer_doc
from appliance.service.fetcher import Progress
from appliance.service.transfers import Live, Transfers
from appliance.store.opening import open_store
from appliance.store.ports import Insert
from tests.builders import package_body


def test_it_stays_cancelled_while_its_last_chunk_comes_until_it_is_retried(tmp_path: Path) -> None:
    """A slow source may take seconds for it, and progress is written every second."""

    async def test() -> None:
        store = await open_store("", tmp_path)
        package = Package(
            id="slow", revision=1, author="n", at=1, withdrawn=False, presence=Presence.WAITING, reason="",
            body=package_body("slow.pkg", b"slow"),
        )  # fmt: skip

        noted = Insert("events", {"_id": "what was noted of its file"})
        settled: dict[str, Any] = {}

        async def settle(_package: str, *, extra: Any = (), transfer: Any = None) -> None:
            settled.update(extra=list(extra), state=transfer["state"] if transfer else "")

        async def forgive(_package: str) -> None: ...

        others: Any = SimpleNamespace(by_id=lambda _id: package, settle=settle, forgive=forgive)
        transfers = Transfers(
            store=store, records=others, catalogue=others, holdings=others, peers=others, node_id="n",
            now=lambda: 1000,
        )  # fmt: skip
        try:
            doc = await store.replace("transfers", {**new_transfer_doc(package, 1000), "state": "fetching"})
            live = Live(
                doc=doc, package=package, state=TransferState.FETCHING, progress=Progress(sources=[]),
                unwanted=threading.Event(),
            )  # fmt: skip
            transfers._live[doc["_id"]] = live
            await transfers.cancel(doc["_id"], actor="jo")
            assert live.unwanted.is_set()
            await transfers._tick(live)
            stored = await store.get("transfers", doc["_id"])
            assert stored is not None
            assert (stored["state"], stored["cancelled_by"]) == ("cancelled", "jo")
            assert (await transfers.get(doc["_id"]))["state"] == "cancelled", "it is shown as it was left"

            retried = await transfers.retry(doc["_id"], actor="jo")
            assert retried["state"] == "pending"
            assert [job.key for job in await store.find_jobs({}, limit=9)] == [fetch_key(doc["_id"])]
            await transfers.end(live, TransferState.CANCELLED, "cancelled by jo")
            stored = await store.get("transfers", doc["_id"])
            assert stored is not None
            assert stored["state"] == "pending", "its end does not undo the retry"
            live.state = TransferState.VERIFYING
            live.writes.append(noted)
            await transfers.end(live, TransferState.DONE)
            assert settled == {"extra": [noted], "state": "done"}, "what came whole counts all the same"
        finally:
            await store.close()

    asyncio.run(test())
