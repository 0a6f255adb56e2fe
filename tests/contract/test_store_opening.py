"""Opening a store: what is made, what is refused, and how older ones are brought up to date."""

import asyncio
import sqlite3
import stat
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.errors import InvalidSettings, StorageFull, StoreUnavailable
from appliance.store.migrations import Migration, migrate
from appliance.store.mongo.store import MongoStore
from appliance.store.opening import FILE_NAME, open_store
from appliance.store.ports import Insert, Store
from appliance.store.schema import COLLECTIONS, PACKAGES, VERSION, FieldType
from appliance.store.sqlite.readers import Readers
from appliance.store.sqlite.store import SqliteStore
from tests.fakes.mongod import Mongod

from .conftest import Place, make_place


async def opened_and_closed(url: str, directory: Path) -> None:
    await (await open_store(url, directory)).close()


def test_the_feed_id_stays(place: Place) -> None:
    async def test(store: Store) -> str:
        await store.ping()
        assert await store.schema_version() == VERSION
        return (await store.feed()).id

    first = place.run(test)
    assert len(first) == 32
    assert place.run(test) == first


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    async def test() -> None:
        store = await open_store(None, tmp_path)
        await store.close()
        with pytest.raises(StoreUnavailable):
            await store.insert("packages", {"_id": "a"})
        with pytest.raises(StoreUnavailable):
            await store.ping()

    asyncio.run(test())


def test_closing_finishes_writes_and_wakes_waiters(place: Place) -> None:
    async def test() -> None:
        store = await place.open()
        waiting = asyncio.create_task(store.changed("peers", 1, timeout=30))
        writes = [asyncio.create_task(store.insert("events", {"_id": f"e{n}"})) for n in range(5)]
        await asyncio.sleep(0.01)
        await store.close()
        await asyncio.gather(*writes)
        await waiting

    async def count(store: Store) -> int:
        return await store.count("events")

    asyncio.run(test())
    assert place.run(count) == 5


def test_migrations_run_once_and_in_order(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    place = make_place(kind, request, tmp_path)
    ran: list[str] = []

    async def rename(store: Store) -> None:
        ran.append("rename")
        for doc in await store.find("packages"):
            doc["filename"] = doc["filename"].upper()
            await store.replace("packages", doc)

    async def fail(store: Store) -> None:
        ran.append("fail")
        raise StoreUnavailable

    async def last(store: Store) -> None:
        ran.append("last")

    first = Migration(version=VERSION + 1, name="rename", run=rename)
    failing = Migration(version=VERSION + 2, name="third", run=fail)

    async def test(store: Store) -> None:
        await store.insert("packages", {"_id": "a", "filename": "a.pkg"})
        with pytest.raises(StoreUnavailable):
            await migrate(store, [failing, first])
        assert await store.schema_version() == VERSION + 1
        await migrate(store, [replace(failing, run=last), first])
        assert await store.schema_version() == VERSION + 2
        await migrate(store, [first, failing])
        assert ran == ["rename", "fail", "last"]
        assert await store.count("packages", {"filename": "A.PKG"}) == 1

    place.run(test)
    with pytest.raises(InvalidSettings, match=f"version {VERSION + 2}"):
        place.run(test)


def test_a_field_declared_later_is_filled(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_place(kind, request, tmp_path)

    async def before(store: Store) -> None:
        await store.batch([Insert("packages", {"_id": f"p{n}", "notes": f"n{n % 2}"}) for n in range(6)])
        await store.insert("packages", {"_id": "none"})

    async def after(store: Store) -> None:
        assert [doc["_id"] for doc in await store.find("packages", {"notes": "n1"})] == ["p1", "p3", "p5"]
        assert await store.count("packages", {"notes": None}) == 1
        await store.replace("packages", {"_id": "p1", "notes": "x"})
        assert await store.count("packages", {"notes": "n1"}) == 2
        await store.replace("packages", {"_id": "p1", "notes": "n1"})

    place.run(before)
    fields: dict[str, FieldType] = {**PACKAGES.fields, "notes": "text"}
    with monkeypatch.context() as patch:
        patch.setitem(COLLECTIONS, "packages", replace(PACKAGES, fields=fields, indexes=(("notes", "-_id"),)))
        place.run(after)
        place.run(after)

    async def without(store: Store) -> None:
        await store.insert("packages", {"_id": "later", "notes": "x"})
        assert await store.count("packages") == 8

    place.run(without)


@pytest.mark.parametrize(
    "url", ["postgres://x", "sqlite:///x", "mongodb://", "mongodb://h:port/x", "mongodb://u:p@ss@h"]
)
def test_bad_urls_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings) as caught:
        asyncio.run(opened_and_closed(url, tmp_path))
    assert "p@ss" not in caught.value.message


def test_many_open_a_new_file_at_once(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        async def test() -> None:
            store = await open_store(None, tmp_path)
            await store.insert("events", {"_id": f"e{number}"})
            await store.close()

        try:
            asyncio.run(test())
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []

    async def count(store: Store) -> int:
        return await store.last_sequence("events")

    assert Place("sqlite", "", tmp_path).run(count) == 12


def test_the_file_is_private_and_synchronous(tmp_path: Path) -> None:
    async def test(store: Store) -> None:
        if sys.platform != "win32":
            for file in tmp_path.glob(f"{FILE_NAME}*"):
                assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
        assert isinstance(store, SqliteStore)
        connection = store._writer._connection
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)

    Place("sqlite", "", tmp_path).run(test)


def test_a_file_whose_disk_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    """A reader may open its connection after the data directory was unmounted."""

    async def test() -> None:
        here = tmp_path / "a disk#1?"
        store = await open_store("", here)
        here.rename(tmp_path / "away")
        here.mkdir()
        readers = Readers(here / FILE_NAME)
        try:
            with pytest.raises(StoreUnavailable):
                await readers.run(lambda connection: connection.execute("SELECT 1").fetchall())
            with pytest.raises(StoreUnavailable):
                async with store.snapshot():
                    pass
            assert list(here.iterdir()) == []
            here.rmdir()
            (tmp_path / "away").rename(here)
            assert await readers.run(lambda connection: connection.execute("SELECT 1").fetchall()) == [(1,)]
        finally:
            await readers.close()
            await store.close()

    asyncio.run(test())


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"something else entirely " * 400)
    with pytest.raises(InvalidSettings, match="not a database"):
        asyncio.run(opened_and_closed("", tmp_path))
    (tmp_path / "blocked").write_text("")
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        asyncio.run(opened_and_closed("", tmp_path / "blocked"))


def test_a_full_disk_loses_nothing_and_passes(tmp_path: Path) -> None:
    async def test(store: Store) -> None:
        assert isinstance(store, SqliteStore)
        await store.insert("events", {"_id": "before"})
        connection = store._writer._connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count={pages + 5}")
        big: dict[str, Any] = {"blob": b"." * 100_000}
        writes = [store.insert("events", {"_id": f"e{n}", **big}) for n in range(3)]
        done = await asyncio.gather(*writes, return_exceptions=True)
        assert [type(each) for each in done] == [StorageFull] * 3
        assert await store.last_sequence("events") == 1
        connection.execute("PRAGMA max_page_count=1000000")
        assert (await store.insert("events", {"_id": "after", **big}))["seq"] == 2

    Place("sqlite", "", tmp_path).run(test)


def test_a_file_locked_by_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.store.sqlite.writer.BUSY_S", 0.3)

    async def test(store: Store) -> None:
        await store.insert("packages", {"_id": "a"})
        other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable):
                await store.insert("packages", {"_id": "b"})
            assert await store.count("packages") == 1  # readers do not care
            other.execute("ROLLBACK")
        finally:
            other.close()
        await store.insert("packages", {"_id": "b"})

    Place("sqlite", "", tmp_path).run(test)


@pytest.mark.mongo
@pytest.mark.parametrize(
    ("replica_set", "hint"), [(False, "without a replica set"), (True, "not been initiated")]
)
@pytest.mark.usefixtures("mongod")
def test_mongodb_without_transactions_is_refused(replica_set: bool, hint: str, tmp_path: Path) -> None:
    server = Mongod(replica_set=replica_set, initiate=False)
    try:
        server.start()
        with pytest.raises(InvalidSettings, match=hint) as caught:
            asyncio.run(opened_and_closed(server.url("ods"), tmp_path))
        assert "rs.initiate()" in caught.value.message
    finally:
        server.dispose()


@pytest.mark.mongo
@pytest.mark.usefixtures("mongod")
def test_mongodb_that_is_not_there(tmp_path: Path) -> None:
    server = Mongod()  # never started
    try:
        with pytest.raises(StoreUnavailable):
            asyncio.run(opened_and_closed(server.url("ods"), tmp_path))
    finally:
        server.dispose()


@pytest.mark.mongo
def test_mongodb_writes_wait_for_the_journal(mongod: Mongod, tmp_path: Path) -> None:
    async def test(store: Store) -> None:
        assert isinstance(store, MongoStore)
        for concern in (store._client.delegate.write_concern, store._database.write_concern):
            assert concern.document == {"w": "majority", "j": True, "wtimeout": 10_000}
        assert store._database.read_concern.level == "majority"

    Place("mongo", mongod.url("shared") + "?w=1&journal=false&readConcernLevel=local", tmp_path).run(test)
