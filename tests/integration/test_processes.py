"""Several processes of a node agree on what is here."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.domain.names import package_id
from appliance.domain.package import Presence
from appliance.domain.record import TOMBSTONE_LIFE_MS
from appliance.jobs.new import new_job
from appliance.peering.records import record_json
from appliance.service.catalogue import Catalogue, package_doc
from appliance.service.digests import DIGEST_JOB, Digests, complete
from appliance.service.fetch_jobs import new_transfer_doc
from appliance.service.maintenance import Maintenance
from appliance.service.transfers import Transfers
from appliance.service.uploads import UploadService
from appliance.store.ports import Replace
from tests.builders import manifest_of

from .test_record_rules import NOW, PEER, Services, Stage, package_record, stage

__all__ = ["stage"]  # the fixture

HOUR_MS = 3_600_000
DATA = b"bytes"
SHA256 = manifest_of(DATA).sha256


def uploads(node: Services) -> UploadService:
    return UploadService(
        store=node.store, blobs=node.blobs, layout=node.layout, packages=node.packages, stages=("prod",),
        default_stage="prod", max_size=10**6, life_ms=HOUR_MS, now=node.now,
    )  # fmt: skip


def maintenance(node: Services) -> Maintenance:
    return Maintenance(
        store=node.store, records=node.records, catalogue=node.catalogue, trash=node.holdings._trash,
        holdings=node.holdings, uploads=uploads(node), blobs=node.blobs, now=node.now,
    )  # fmt: skip


async def put(node: Services, name: str, data: bytes = DATA, **fields: Any) -> Any:
    """Put a file in as a client does."""
    service = uploads(node)
    upload = await service.create(filename=name, size=len(data), actor="me", **fields)
    async with service.receiving(upload, 0) as receiver:
        await receiver.write(data)
        return await service.complete(upload, receiver, remember=False)


def test_a_package_that_another_process_purged_is_published_again(stage: Stage) -> None:
    async def script(serving: Services) -> None:
        id = package_id("Thing.pkg")
        await put(serving, "Thing.pkg", b"first")
        await serving.packages.withdraw(id, actor="me")
        worker = serving.again()
        await worker.start()
        assert serving.catalogue.rev(id) > 1
        await maintenance(worker).purge()
        worker.time = serving.time = NOW + TOMBSTONE_LIFE_MS + 1
        await maintenance(worker).purge()
        assert await serving.store.get("packages", id) is None
        outcome = await put(serving, "Thing.pkg")
        assert outcome.package.presence is Presence.HELD

    stage.run(script)


def test_a_view_that_was_deleted_and_made_anew_is_read(stage: Stage) -> None:
    async def script(worker: Services) -> None:
        id = package_id("Thing.pkg")
        gone = package_record("Thing.pkg", deleted=True)
        await worker.intake.take(PEER.node_id, [record_json(gone)])
        serving = Catalogue(worker.store, now=worker.now)
        await serving.load()
        assert serving.rev(id) == 1
        await maintenance(worker).purge()
        worker.time = NOW + TOMBSTONE_LIFE_MS + 1
        await maintenance(worker).purge()
        await worker.publish("Thing.pkg", DATA)
        await serving.load()
        found = serving.by_id(id)
        assert found is not None
        assert found.presence is Presence.HELD
        worker.time += 1
        await worker.packages.change(id, notes="edited", actor="me")
        await serving.load()
        found = serving.by_id(id)
        assert found is not None
        assert found.body.notes == "edited"

    stage.run(script)


def test_deletions_by_another_process_are_noticed(stage: Stage) -> None:
    async def script(worker: Services) -> None:
        for name in ("Old.pkg", "Other.pkg"):
            await worker.intake.take(PEER.node_id, [record_json(package_record(name, deleted=True))])
        serving = Catalogue(worker.store, now=worker.now)
        await serving.load()
        assert len(serving.all()) == 2
        await maintenance(worker).purge()
        worker.time = NOW + TOMBSTONE_LIFE_MS + 1
        await worker.publish("New.pkg", DATA)
        await maintenance(worker).purge()
        await serving.load()
        assert [package.body.filename for package in serving.all()] == ["New.pkg"]
        assert serving.by_filename("Old.pkg") is None

    stage.run(script)


def test_what_was_published_again_elsewhere_is_not_purged(stage: Stage) -> None:
    async def script(serving: Services) -> None:
        id = package_id("Thing.pkg")
        await put(serving, "Thing.pkg", b"first")
        await serving.packages.withdraw(id, actor="me")
        worker = serving.again()
        await worker.start()
        await maintenance(worker).purge()
        worker.time = serving.time = NOW + TOMBSTONE_LIFE_MS + 1
        await put(serving, "Thing.pkg")
        await maintenance(worker).purge()
        assert await serving.store.get("packages", id) is not None
        found = worker.catalogue.by_id(id)
        assert found is not None
        assert found.presence is Presence.HELD

    stage.run(script)


def test_what_is_written_after_the_clock_was_set_back_is_read(stage: Stage) -> None:
    async def script(worker: Services) -> None:
        await worker.publish("Thing.pkg", DATA)
        serving = Catalogue(worker.store, now=worker.now)
        await serving.load()
        for _ in range(3):
            worker.time -= 2 * HOUR_MS
            await worker.packages.change(package_id("Thing.pkg"), notes=str(worker.time), actor="me")
            await worker.publish(f"New-{worker.time}.pkg", DATA)
            await serving.load()
            found = serving.by_id(package_id("Thing.pkg"))
            assert found is not None
            assert found.body.notes == str(worker.time)
            assert serving.by_filename(f"New-{worker.time}.pkg") is not None

    stage.run(script)


def test_a_read_that_comes_late_takes_nothing_back(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(node: Services) -> None:
        await node.publish("Thing.pkg", DATA)
        id = package_id("Thing.pkg")
        whole = node.store.get

        async def slow(collection: str, key: str) -> Any:
            doc = await whole(collection, key)
            if collection == "packages":
                package = node.catalogue.by_id(id)
                assert package is not None
                (stored,) = await node.store.batch([Replace("packages", package_doc(package, NOW + 1))])
                assert stored is not None
                node.catalogue.take(stored)
            return doc

        with monkeypatch.context() as patched:
            patched.setattr(node.store, "get", slow)
            await node.catalogue.refresh(id)
        doc = await whole("packages", id)
        assert doc is not None
        assert node.catalogue.rev(id) == doc["_rev"]

    stage.run(script)


# What a job decides about is not an old copy


def test_a_transfer_that_another_process_began_is_not_closed(stage: Stage) -> None:
    async def script(serving: Services) -> None:
        worker = serving.again()
        await worker.start()
        await serving.intake.take(PEER.node_id, [record_json(package_record("New.pkg", data=DATA))])
        view = serving.catalogue.by_id(package_id("New.pkg"))
        assert view is not None
        doc = {**new_transfer_doc(view, NOW), "state": "stalled"}
        await serving.store.replace("transfers", doc)
        parts: dict[str, Any] = dict.fromkeys(("peers", "node_id"))
        transfers = Transfers(
            store=worker.store, records=worker.records, catalogue=worker.catalogue, holdings=worker.holdings,
            now=worker.now, **parts,
        )  # fmt: skip
        await transfers.close_unwanted()
        kept = await serving.store.get("transfers", doc["_id"])
        assert kept is not None
        assert kept["state"] == "stalled"

    stage.run(script)


def test_a_job_knows_a_package_that_another_process_published(stage: Stage) -> None:
    async def script(serving: Services) -> None:
        worker = serving.again()
        await worker.start()
        await serving.publish("New.pkg", DATA)
        digests = Digests(
            store=worker.store, catalogue=worker.catalogue, blobs=worker.blobs, holdings=worker.holdings,
            packages=worker.packages, now=worker.now,
        )  # fmt: skip
        loop = asyncio.get_running_loop()
        context = SimpleNamespace(
            check=lambda: None,
            wait=lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result(30),
        )
        job = new_job("hash", DIGEST_JOB, NOW, args={"package": package_id("New.pkg"), "sha256": SHA256})
        await asyncio.to_thread(digests.run, job, cast(Any, context))
        await serving.catalogue.load()
        found = serving.catalogue.by_id(package_id("New.pkg"))
        assert found is not None
        assert complete(found)

    stage.run(script)
