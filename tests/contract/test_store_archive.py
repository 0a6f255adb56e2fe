"""Moving a store through a file, in every direction, and noticing damage."""

import asyncio
import io
import json
import random
import re
import stat
import sys
import tarfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import bson
import pytest

from appliance.domain.errors import (
    ApplianceError,
    Conflict,
    IntegrityFailure,
    InvalidInput,
    InvalidSettings,
    StorageError,
)
from appliance.domain.job import Job
from appliance.store.archive import export_archive, import_archive
from appliance.store.feed import Feed
from appliance.store.ports import Doc, Done, Enqueue, Failed, Insert, Replace, Store
from appliance.store.schema import COLLECTIONS

from .conftest import KINDS, Place, make_place

Content = dict[str, Any]


async def fill(store: Store) -> None:
    await store.batch([Insert("events", {"_id": f"e{number}", "type": "t"}) for number in range(12)])
    await store.delete("events", {"seq": {"in": [3, 12]}})
    await store.batch([Replace("records", {"_id": f"r{number % 3}", "kind": "node"}) for number in range(7)])
    odd = {
        "_id": "ü/😀",
        "moment": datetime(2026, 1, 2, tzinfo=UTC),
        "bytes": b"\0\xff",
        "none": None,
        "$": {},
    }
    odd = {key: value for key, value in odd.items() if key != "$"} | {
        "nested": {"$x": [1.5, 2**50, {"": True}]}
    }
    await store.insert("packages", odd)
    await store.insert("manifests", {"_id": "large", "chunks": random.Random(1).randbytes(3_000_000)})
    await store.batch([Insert("manifests", {"_id": f"m{number:04}", "n": number}) for number in range(1200)])
    await store.batch(
        [Enqueue(Job(id=f"j{n}", queue="q", name="n", key=f"k{n}", args={"n": n})) for n in range(5)]
    )
    jobs = await store.claim("q", "w", now=10, lease_ms=1000, limit=3)
    await store.settle(jobs[0], Done(), now=11)
    await store.settle(jobs[1], Failed(error="no"), now=12)
    await store.enqueue(Job(id="again", queue="q", name="n", key=jobs[2].key))


async def content(store: Store) -> Content:
    found: Content = {}
    async with store.snapshot() as snapshot:
        for name in COLLECTIONS:
            found[name] = [doc async for doc in snapshot.export(name)]
            found[f"{name} last"] = await snapshot.last_sequence(name)
    return found


@pytest.mark.parametrize("target", KINDS)
def test_nothing_is_lost(kind: str, target: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    file = tmp_path / "site.tar"
    first, second = make_place(kind, request, tmp_path), make_place(target, request, tmp_path)
    feeds: list[Feed] = []

    async def export(store: Store) -> Content:
        await fill(store)
        feeds.append(await store.feed())
        await export_archive(store, file)
        return await content(store)

    async def load(store: Store) -> Content:
        await import_archive(store, file)
        feeds.append(await store.feed())
        return await content(store)

    async def go_on(store: Store) -> None:
        assert (await store.insert("events", {"_id": "next"}))["seq"] == 13
        assert (await store.replace("records", {"_id": "r0"}))["seq"] == 8
        (expired,) = await store.claim("q", "w2", now=5000, lease_ms=1, limit=1)
        assert (expired.token, expired.attempts) in {(2, 2), (1, 1)}
        assert not await store.enqueue(Job(id="x", queue="q", name="n", key="k4"))

    before = first.run(export)
    assert before["events last"] == 12
    assert len(before["manifests"]) == 1201
    assert second.run(load) == before
    assert second.run(content) == before  # also after it was opened again
    old, new = feeds
    assert new.id != old.id, "the exported store may go on: nobody continues in its feed"
    assert [new.start(old.id, since) for since in (6, 7, 8)] == [6, 7, 0], "it had given 7 numbers"
    second.run(go_on)


def test_the_archive_is_what_mongorestore_reads(tmp_path: Path) -> None:
    file = tmp_path / "site.tar"

    async def export(store: Store) -> Content:
        await fill(store)
        await export_archive(store, file)
        return {**await content(store), "feed": (await store.feed()).id}

    before = Place("sqlite", "", tmp_path).run(export)
    if sys.platform != "win32":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(tmp_path.glob("site*")) == [file]
    with tarfile.open(file) as archive:
        names = archive.getnames()
        for name in COLLECTIONS:
            stream = archive.extractfile(f"ods/{name}.bson")
            assert stream is not None
            docs: list[Doc] = bson.decode_all(stream.read())
            assert [doc["_id"] for doc in docs] == [doc["_id"] for doc in before[name]]
        meta = json.load(archive.extractfile("meta.json") or io.BytesIO())
    assert len(names) == len(COLLECTIONS) + 2
    assert meta["feed_id"] == before["feed"]
    assert meta["sequences"] == {"events": 12, "records": 7}
    assert meta["collections"]["manifests"]["count"] == 1201


def test_an_export_shows_one_moment(place: Place) -> None:
    async def test(store: Store) -> None:
        await store.batch([Insert("events", {"_id": f"e{number:04}"}) for number in range(1500)])
        async with store.snapshot() as snapshot:
            seen: list[Doc] = []
            async for doc in snapshot.export("events"):
                if len(seen) == 10:
                    await store.insert("events", {"_id": "zz"})
                    await store.insert("packages", {"_id": "p"})
                    await store.delete("events", {"_id": "e1400"})
                seen.append(doc)
            assert len(seen) == 1500
            assert [doc async for doc in snapshot.export("packages")] == []
            assert await snapshot.last_sequence("events") == 1500
        assert await store.last_sequence("events") == 1501

    place.run(test)


def test_no_node_starts_on_a_part_of_an_archive(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "site.tar"
    source, place = make_place(kind, request, tmp_path), make_place(kind, request, tmp_path)

    async def export(store: Store) -> None:
        await store.insert("accounts", {"_id": "admin"})
        await export_archive(store, file)

    async def cut_off(store: Store) -> None:
        async def killed(name: str, docs: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(store, "load", killed)
        with pytest.raises(KeyboardInterrupt):
            await import_archive(store, file)

    async def nothing(store: Store) -> None:
        pytest.fail("it was opened")

    source.run(export)
    place.run(cut_off)
    with pytest.raises(InvalidSettings, match="import again"):
        place.run(nothing)


def test_a_store_with_anything_in_it_is_left_alone(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "site.tar"

    async def test(store: Store) -> None:
        await export_archive(store, file)
        await store.insert("accounts", {"_id": "admin"})
        with pytest.raises(Conflict, match="accounts"):
            await import_archive(store, file)
        await store.delete("accounts", {})
        await store.insert("events", {"_id": "e"})
        await store.delete("events", {})
        with pytest.raises(Conflict, match="events"):
            await import_archive(store, file)

    place.run(test)


def import_into(directory: Path, file: Path) -> Content:
    """Import into a new store; return what it has afterwards, and make sure that it is all or nothing."""

    async def test(store: Store) -> Content:
        empty = await content(store)
        try:
            await import_archive(store, file)
        except ApplianceError:
            assert await content(store) == empty
            raise
        return await content(store)

    found: Content = Place("sqlite", "", directory).run(test)
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Content]:
    directory = tmp_path_factory.mktemp("small")
    file = directory / "site.tar"

    async def export(store: Store) -> Content:
        await store.insert("events", {"_id": "e", "type": "t"})
        await store.batch([Insert("packages", {"_id": f"p{n}", "filename": f"{n}.pkg"}) for n in range(20)])
        await export_archive(store, file)
        return await content(store)

    return file, Place("sqlite", "", directory).run(export)


@pytest.mark.parametrize("seed", range(40))
def test_a_changed_byte_is_noticed(small: tuple[Path, Content], seed: int, tmp_path: Path) -> None:
    file, before = small
    data = bytearray(file.read_bytes())
    position = random.Random(seed).randrange(len(data))
    data[position] ^= 1 << seed % 8
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(data)
    try:
        after = import_into(tmp_path, damaged)
    except (IntegrityFailure, InvalidInput):
        return
    assert after == before  # it was padding


def test_a_changed_feed_id_is_noticed(small: tuple[Path, Content], tmp_path: Path) -> None:
    data = small[0].read_bytes()
    (feed,) = re.findall(rb'"feed_id": "([0-9a-f]{32})"', data)
    assert data.count(feed) == 1
    (tmp_path / "damaged.tar").write_bytes(data.replace(feed, feed[::-1]))
    with pytest.raises(IntegrityFailure, match=r"meta\.json"):
        import_into(tmp_path, tmp_path / "damaged.tar")


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.8, 0.97])
def test_a_cut_archive_is_refused(small: tuple[Path, Content], part: float, tmp_path: Path) -> None:
    data = small[0].read_bytes().rstrip(b"\0")
    damaged = tmp_path / "cut.tar"
    damaged.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(IntegrityFailure):
        import_into(tmp_path, damaged)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        import_into(tmp_path, tmp_path / "missing.tar")
    with pytest.raises(InvalidInput, match="cannot be read"):
        import_into(tmp_path, tmp_path)
    (tmp_path / "text.tar").write_text("no archive at all" * 100)
    with pytest.raises(IntegrityFailure):
        import_into(tmp_path, tmp_path / "text.tar")
    with tarfile.open(tmp_path / "other.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("ods/packages.bson"))
    with pytest.raises(IntegrityFailure, match=r"meta\.json"):
        import_into(tmp_path, tmp_path / "other.tar")


def test_an_archive_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "site.tar"

    async def export(store: Store) -> None:
        await store.set_schema_version(99)
        await export_archive(store, file)

    Place("sqlite", "", tmp_path / "newer").run(export)
    with pytest.raises(InvalidSettings, match="99"):
        import_into(tmp_path, file)


def test_an_archive_that_cannot_be_written(tmp_path: Path) -> None:
    async def test(store: Store) -> None:
        with pytest.raises(StorageError, match="cannot be written"):
            await export_archive(store, tmp_path / "nowhere" / "site.tar")
        assert await asyncio.to_thread(lambda: list(tmp_path.glob("**/*.part"))) == []

    Place("sqlite", "", tmp_path).run(test)
