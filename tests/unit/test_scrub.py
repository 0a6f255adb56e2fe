"""What a scrub reads, in which order and how fast."""

import asyncio
import gc
import hashlib
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.domain.errors import Stopping
from appliance.domain.event import EventType
from appliance.jobs.context import JobContext
from appliance.service import scrub as module
from appliance.service.blob_check import Finding
from appliance.service.metrics import Metrics
from appliance.service.scrub import LEAST_RATE, UNDER_LOAD, Scrub, scrub_job
from appliance.service.scrub_pace import BUSY_RATE, Load, Pace
from appliance.service.verified_blobs import VerifiedBlobs
from appliance.store.blobs import BlobStore
from appliance.store.layout import Layout
from appliance.store.opening import open_store
from appliance.store.ports import Store

DAY_MS = 86_400_000
RATE = 64 * 1024 * 1024


class Site:
    """The files of a node, and processes that scrub them."""

    def __init__(self, root: Path, store: Store) -> None:
        self.store = store
        self.clock = 1_000 * DAY_MS
        self.layout = Layout(root)
        self.blobs = BlobStore(self.layout, floor_bytes=0)
        self.held: list[str] = []
        self.kept: dict[str, int | None] = {}  #: of earlier versions
        self.lost: list[str] = []
        self.read: list[str] = []
        self.catalogue: Any = SimpleNamespace(all=self._packages, holders=lambda _: [])

    def _packages(self) -> list[Any]:
        return [SimpleNamespace(held_sha256=sha, body=SimpleNamespace(size=10)) for sha in self.held]

    async def put(self, data: bytes, age_days: float) -> str:
        """A file that was verified so long ago."""
        sha256 = hashlib.sha256(data).hexdigest()
        self.layout.upload("u").write_bytes(data)
        stamp = self.blobs.commit(self.layout.upload("u"), sha256).stamp
        verified = VerifiedBlobs(
            store=self.store, blobs=self.blobs, catalogue=self.catalogue, now=lambda: self.clock
        )
        at = self.clock - round(age_days * DAY_MS)
        await self.store.batch([verified.remember(sha256, stamp, at=at)])
        self.held.append(sha256)
        return sha256

    def process(self, **options: Any) -> Scrub:
        """A scrub as a process of its own has it."""
        verified = VerifiedBlobs(
            store=self.store, blobs=self.blobs, catalogue=self.catalogue, now=lambda: self.clock
        )
        self.metrics = Metrics(version="1", python="3", database="sqlite")
        return Scrub(
            store=self.store, catalogue=self.catalogue, blobs=self.blobs, verified=verified,
            verifying=SimpleNamespace(lost=self._lose),  # type: ignore[arg-type]
            trash=SimpleNamespace(files=self._files),  # type: ignore[arg-type]
            metrics=self.metrics, node_id="n", now=lambda: self.clock,
            **{"days": 30.0, "rate": RATE, **options},
        )  # fmt: skip

    async def _files(self) -> dict[str, int | None]:
        return dict(self.kept)

    async def _lose(self, sha256: str, finding: Finding) -> list[str]:
        assert finding.fault
        self.lost.append(sha256)
        if sha256 in self.held:
            self.held.remove(sha256)
        self.kept.pop(sha256, None)
        return ["package"]

    async def run(self, scrub: Scrub, context: JobContext | None = None) -> None:
        job = scrub_job(self.clock)
        await scrub.run(job, context or JobContext(job, asyncio.get_running_loop()))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is read, in order."""
    found: list[str] = []
    real = module.verify

    def watched(blobs: BlobStore, sha256: str, **options: Any) -> Finding:
        found.append(sha256)
        return real(blobs, sha256, **options)

    monkeypatch.setattr(module, "verify", watched)
    return found


def on_site(tmp_path: Path, test: Callable[[Site], Awaitable[None]]) -> None:
    async def go() -> None:
        store = await open_store(None, tmp_path)
        try:
            await test(Site(tmp_path, store))
        finally:
            await store.close()

    asyncio.run(go())


def test_what_waits_longest_is_read_first_and_what_is_fresh_is_left(tmp_path: Path, reads: list[str]) -> None:
    async def test(site: Site) -> None:
        fresh = await site.put(b"fresh", 22)
        old, older = await site.put(b"old", 23), await site.put(b"older", 29)
        never = await site.put(b"never", 1000)
        scrub = site.process()
        before = await scrub.status()
        assert (before.files, before.due_files, before.state) == (4, 3, "idle")
        await site.run(scrub)
        assert reads == [never, older, old]
        after = await scrub.status()
        assert (after.due_files, after.state, after.current) == (0, "idle", None)
        assert after.last is not None
        assert (after.last.files, after.last.bytes, after.last.damaged) == (3, 13, 0)
        assert after.oldest_at == site.clock - 22 * DAY_MS
        await site.run(site.process())
        assert len(reads) == 3, "nothing is due"
        site.clock += DAY_MS
        await site.run(site.process())
        assert reads[3:] == [fresh]
        assert (await scrub.status()).total_files == 4

    on_site(tmp_path, test)


def test_what_was_read_while_the_clock_was_ahead_is_read_again(tmp_path: Path, reads: list[str]) -> None:
    async def test(site: Site) -> None:
        one = await site.put(b"one", 10)
        scrub, other = site.process(), site.process()
        site.clock += 365 * DAY_MS
        await scrub.start(actor="anna")
        await site.run(scrub)
        assert reads == [one]
        assert (await other.status()).due_files == 0
        site.clock -= 365 * DAY_MS
        scrub = site.process()
        await site.run(scrub)
        assert reads == [one, one], "nobody knows when it was read"
        for process in (scrub, other):
            found = await process.status()
            assert (found.oldest_at, found.due_files) == (site.clock, 0)
            assert found.last is not None
            assert found.last.ended_at == site.clock
        site.clock += DAY_MS
        await site.run(scrub)
        assert len(reads) == 2
        await scrub.start(actor="anna")
        assert (await scrub.status()).due_files == 1
        await site.run(scrub)
        assert len(reads) == 3

    on_site(tmp_path, test)


def test_one_that_was_asked_for_while_the_clock_was_ahead_ends(tmp_path: Path, reads: list[str]) -> None:
    async def test(site: Site) -> None:
        await site.put(b"one", 10)
        scrub = site.process()
        site.clock += 365 * DAY_MS
        await scrub.start(actor="anna")
        site.clock -= 365 * DAY_MS
        await asyncio.wait_for(site.run(scrub), 10)
        assert len(reads) == 1
        await site.run(scrub)
        assert len(reads) == 1, "what was asked for was done"

    on_site(tmp_path, test)


def test_a_process_that_was_busy_while_the_clock_was_ahead_is_busy_no_more(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        sha256 = await site.put(b"one", 40)
        await site.store.replace("scrub", {"_id": "busy:x", "until": site.clock + 365 * DAY_MS})
        scrub = site.process()
        await asyncio.wait_for(site.run(scrub), 10)
        assert (await scrub.status()).oldest_at == site.clock, sha256
        await scrub._change(beat=site.clock + DAY_MS)
        assert (await scrub.status()).state == "idle"

    on_site(tmp_path, test)


def test_earlier_versions_are_read_too(tmp_path: Path, reads: list[str]) -> None:
    async def test(site: Site) -> None:
        version = await site.put(b"earlier", 60)
        site.held.remove(version)
        site.kept[version] = None  # an older program kept it and did not note the size
        scrub = site.process()
        await site.run(scrub)
        assert reads == [version]
        site.clock += 40 * DAY_MS
        site.blobs.path(version).write_bytes(b"rot!!!!")
        await site.run(scrub)
        assert site.lost == [version]
        status = await scrub.status()
        assert (status.files, status.total_damaged) == (0, 1)

    on_site(tmp_path, test)


def test_a_scrub_that_was_cut_off_goes_on(tmp_path: Path, reads: list[str]) -> None:
    async def test(site: Site) -> None:
        files = [await site.put(f"{age}".encode(), age) for age in (60, 50, 40)]
        scrub = site.process()
        context = JobContext(scrub_job(0), asyncio.get_running_loop())
        take = scrub._take

        async def stop_after_first(*arguments: Any) -> None:
            await take(*arguments)
            context.stop()

        scrub._take = stop_after_first  # type: ignore[method-assign]
        with pytest.raises(Stopping):
            await site.run(scrub, context)
        status = await scrub.status()
        assert status.current is not None
        assert (status.current.files, status.due_files) == (1, 2)
        again = reads.count(files[0])
        await site.run(site.process())
        assert reads.count(files[0]) == again == 1
        last = (await site.process().status()).last
        assert last is not None
        assert last.files == 3, "it is one pass"

    on_site(tmp_path, test)


def test_a_stop_while_a_file_is_read_leaves_no_error_that_nobody_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop logs such an error with a traceback when it forgets the future."""

    def cut_off(_blobs: BlobStore, _sha256: str, *, check: Callable[[], None], **_: Any) -> Finding:
        context.stop()
        check()
        raise AssertionError("it stops")

    async def test(site: Site) -> None:
        nonlocal context
        await site.put(b"one", 60)
        context = JobContext(scrub_job(0), asyncio.get_running_loop())
        told: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: told.append(what["message"]))
        monkeypatch.setattr(module, "verify", cut_off)
        with pytest.raises(Stopping):
            await site.run(site.process(), context)
        gc.collect()
        await asyncio.sleep(0)
        assert told == []

    context: Any = None
    on_site(tmp_path, test)


def test_damage_is_told_when_all_is_read(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        await site.put(b"good", 60)
        bad = await site.put(b"bad!", 60)
        site.blobs.path(bad).write_bytes(b"rot!")
        scrub = site.process()
        await site.run(scrub)
        assert site.lost == [bad]
        events = await site.store.find("events", {"type": str(EventType.SCRUB_DAMAGE)})
        assert [event["data"] for event in events] == [{"files": 2, "size": 8, "damaged": 1}]
        assert (await scrub.status()).total_damaged == 1

    on_site(tmp_path, test)


def test_without_days_only_a_person_starts_it(tmp_path: Path, reads: list[str]) -> None:
    async def test(site: Site) -> None:
        file = await site.put(b"x", 500)
        scrub = site.process(days=0.0)
        await site.run(scrub)
        assert reads == []
        assert (await scrub.status()).state == "off"
        site.clock += 1
        await scrub.start(actor="me")
        await scrub.start(actor="me")
        assert await site.store.count("jobs") == 1, "one process reads"
        await site.run(scrub)
        assert reads == [file]

    on_site(tmp_path, test)


def test_the_rate_is_what_the_days_need(tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        file = await site.put(b"x", 25)
        scrub = site.process(days=30.0)
        await scrub._verified.load()
        state = await scrub._state()
        assert scrub._needed([file], {file: 1}, state) == (LEAST_RATE, False)
        rate, _ = scrub._needed([file], {file: 10**14}, state)
        assert rate == RATE, "never above the setting"
        rate, urgent = scrub._needed([file], {file: 10**13}, state)
        assert LEAST_RATE < rate < RATE
        assert 25 + 10**13 / rate / 86_400 < 30
        assert not urgent
        site.clock += 6 * DAY_MS
        assert scrub._needed([file], {file: 1}, state)[1], "what is overdue goes on under load"
        assert scrub._needed([file], {file: 1}, {**state, "requested_at": site.clock}) == (RATE, True)

    on_site(tmp_path, test)


def test_one_that_was_asked_for_ends_under_load_also_if_its_last_file_is_repaired_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SAY_S", 0.02)
    monkeypatch.setattr(module, "_TICK_S", 0.02)
    real = module.verify

    async def test(site: Site) -> None:
        file = await site.put(b"x" * 3_000_000, 25)
        scrub = site.process()
        scrub._load = SimpleNamespace(busy=lambda: True)  # type: ignore[assignment]

        def verify_slowly(*arguments: Any, **more: Any) -> Finding:
            scrub._verified.remember(file, site.blobs.stamp(file))  # type: ignore[arg-type]
            time.sleep(0.2)
            return real(*arguments, **more)

        monkeypatch.setattr(module, "verify", verify_slowly)
        await scrub.start(actor="me")
        site.clock += 1
        await asyncio.wait_for(site.run(scrub), 20)
        assert (await scrub.status()).due_files == 0

    on_site(tmp_path, test)


def test_it_pauses_while_packages_move_here_or_in_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SAY_S", 0.02)

    async def test(site: Site) -> None:
        await site.put(b"x" * 3_000_000, 25)
        other, scrub = site.process(), site.process()
        busy = {"here": True, "there": False}
        scrub._load = SimpleNamespace(busy=lambda: busy["here"])  # type: ignore[assignment]
        other._load = SimpleNamespace(busy=lambda: busy["there"])  # type: ignore[assignment]
        watching = asyncio.create_task(other.watch())
        running = asyncio.create_task(site.run(scrub))

        async def reaches(state: str) -> None:
            for _ in range(1000):
                if (await other.status()).state == state:
                    return
                await asyncio.sleep(0.02)
            raise AssertionError(f"not {state}: {await other.status()}")

        await reaches("paused")
        busy["there"] = True
        for _ in range(1000):
            if scrub._others_busy:
                break
            await asyncio.sleep(0.02)
        assert scrub._others_busy, "the other process does not say it, or this one does not see it"
        busy["here"] = False
        await asyncio.sleep(0.2)
        await reaches("paused")
        assert not running.done()
        busy["there"] = False
        site.clock += 16_000
        await asyncio.wait_for(running, 20)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        assert (await other.status()).state == "idle"

    on_site(tmp_path, test)


def test_load() -> None:
    metrics = Metrics(version="1", python="3", database="sqlite")
    clock = [0.0]
    load = Load(metrics, lambda: clock[0])
    assert not load.busy()
    metrics.downloaded(3 * BUSY_RATE)
    assert not load.busy(), "not before a second is over"
    clock[0] = 2.0
    assert load.busy()
    clock[0] = 4.0
    assert not load.busy()
    metrics.uploaded(BUSY_RATE)
    clock[0] = 6.0
    assert not load.busy()


def test_pace() -> None:
    pace = Pace()
    pace.set(10_000_000)
    began = time.monotonic()
    for _ in range(30):
        pace.wait(100_000, lambda: None)
    assert 0.2 < time.monotonic() - began < 3

    def check() -> None:
        if stopping.is_set():
            raise Stopping

    stopping = threading.Event()
    pace.set(0)
    assert pace.stopped
    ended: list[str] = []

    def wait() -> None:
        try:
            pace.wait(1, check)
        except Stopping:
            ended.append("stopped")
        else:
            ended.append("went on")

    for action, word in ((stopping.set, "stopped"), (lambda: pace.set(RATE / UNDER_LOAD), "went on")):
        pace.set(0)
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.05)
        assert not ended
        action()
        thread.join(5)
        assert ended == [word]
        ended.clear()
        stopping.clear()
