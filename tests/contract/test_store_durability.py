"""What was acknowledged survives kill -9, and work goes on by itself when the database comes back."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.domain.errors import StoreUnavailable
from appliance.store.ports import Store
from tests.fakes.mongod import Mongod

from .conftest import Place


@pytest.fixture
def own_mongod(mongod: Mongod) -> Iterator[Mongod]:
    """A server that may be killed: the others' stays alive."""
    server = Mongod()
    try:
        yield server.start()
    finally:
        server.dispose()


def writers(place: Place, count: int) -> list[subprocess.Popen[str]]:
    return [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.contract.acknowledge",
                place.url,
                str(place.directory),
                f"w{number}",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]


def read(process: subprocess.Popen[str], lines: int) -> list[str]:
    assert process.stdout is not None
    found = [process.stdout.readline() for _ in range(lines)]
    assert all(found), "the writer has ended"
    return found


def killed(process: subprocess.Popen[str]) -> list[str]:
    """Kill a writer; return what it had still said. A line without its end does not count."""
    process.kill()
    rest, _ = process.communicate(timeout=30)
    return [line for line in rest.splitlines(keepends=True) if line.endswith("\n")]


async def lost(store: Store, lines: list[str]) -> list[str]:
    """The acknowledged ids that are not there; also checks that sequences have no gaps."""
    missing = []
    for line in lines:
        *batch, id_ = line.split()
        for collection in ("events", "records") if batch else ("packages",):
            if await store.get(collection, id_) is None:
                missing.append(f"{collection} {id_}")
    for collection in ("events", "records"):
        after, last = None, 0
        while page := await store.find(collection, order="seq", limit=500, after=after):
            for doc in page:
                assert doc["seq"] == last + 1
                last += 1
            after = (page[-1]["seq"], page[-1]["_id"])
        assert await store.last_sequence(collection) == last
    return missing


@pytest.mark.parametrize("lines", [50, 400])
def test_sqlite_loses_nothing_when_two_writers_are_killed(tmp_path: Path, lines: int) -> None:
    place = Place("sqlite", "", tmp_path)
    processes = writers(place, 2)
    acknowledged: list[str] = []
    try:
        for process in processes:
            acknowledged += read(process, lines)
    finally:
        for process in processes:
            acknowledged += killed(process)
    assert place.run(lambda store: lost(store, acknowledged)) == []


@pytest.mark.mongo
def test_mongodb_loses_nothing_when_it_is_killed(own_mongod: Mongod, tmp_path: Path) -> None:
    place = Place("mongo", own_mongod.url("ods"), tmp_path)
    (process,) = writers(place, 1)
    acknowledged: list[str] = []
    try:
        acknowledged += read(process, 200)
        own_mongod.kill()
        own_mongod.start()
        acknowledged += read(process, 200)  # the writer went on by itself
    finally:
        acknowledged += killed(process)
    assert place.run(lambda store: lost(store, acknowledged)) == []


@pytest.mark.mongo
def test_work_goes_on_after_an_outage(own_mongod: Mongod, tmp_path: Path) -> None:
    async def test(store: Store) -> None:
        await store.insert("packages", {"_id": "a"})
        seen = await store.changed("jobs", 0, timeout=0)
        waiting = asyncio.create_task(store.changed("jobs", seen, timeout=60))

        await asyncio.to_thread(own_mongod.stop)
        start = time.monotonic()
        calls = [
            store.insert("packages", {"_id": "b"}),
            store.insert("events", {"_id": "b"}),
            store.get("packages", "a"),
            store.find("packages"),
            store.claim("q", "w", now=1, lease_ms=1),
            store.ping(),
        ]
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(each) for each in done] == [StoreUnavailable] * len(calls)
        assert 1 < time.monotonic() - start < 9
        await asyncio.to_thread(own_mongod.start)
        assert await store.get("packages", "a") is not None
        await store.insert("events", {"_id": "c"})
        await waiting  # whoever waited looks again, since nobody knows what happened meanwhile

        own_mongod.freeze()
        start = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await store.ping()
        assert time.monotonic() - start < 5
        slow = asyncio.create_task(store.insert("packages", {"_id": "d"}))
        await asyncio.sleep(0.2)
        own_mongod.thaw()
        await slow
        await store.ping()

    Place("mongo", own_mongod.url("ods"), tmp_path).run(test)
