"""A job that begins a transfer, beside other processes that do the same work."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.domain.package import Package, Presence
from appliance.service.fetch_jobs import new_transfer_doc
from appliance.service.transfers import Transfers
from appliance.store.opening import open_store
from tests.builders import package_body


def test_one_that_another_process_has_just_ended_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the package and that at its transfer, a file that was repaired is served again."""

    async def test() -> None:
        store = await open_store("", tmp_path)
        package = Package(
            id="p", revision=1, author="n", at=1, withdrawn=False, presence=Presence.ARRIVING,
            body=package_body("p.pkg", b"p"),
        )  # fmt: skip
        settled: list[str] = []

        async def refresh(_id: str) -> Package:
            return package

        async def settle(id: str) -> Package:
            settled.append(id)
            return package

        async def on_disk(_body: Any) -> bool:
            return False

        async def sources(_package: Package) -> list[Any]:
            return [SimpleNamespace(name="north")]

        others: Any = SimpleNamespace(refresh=refresh, settle=settle, on_disk=on_disk)
        transfers = Transfers(
            store=store, records=others, catalogue=others, holdings=others, peers=others, node_id="n",
            now=lambda: 1000,
        )  # fmt: skip
        monkeypatch.setattr(transfers, "sources", sources)
        try:
            await store.replace("transfers", {**new_transfer_doc(package, 1000), "state": "done"})
            assert await transfers.begin("p", package.body.sha256) is None
            assert settled == ["p"], (
                "if it is wanted all the same, it has a new transfer and its job runs again"
            )
        finally:
            await store.close()

    asyncio.run(test())
