"""Further digests: the right ones, in one pass, once for each file."""

import asyncio
import hashlib
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.domain.errors import Stopping
from appliance.domain.holding import Action, Decision
from appliance.domain.manifest import CHUNK_SIZE
from appliance.domain.package import Package, Presence
from appliance.service import digests as module
from appliance.service.consequences import events_of
from appliance.service.digests import Digests, FurtherDigests, complete, digest_file
from tests.unit.mirroring import Clock, package

SIZES = [0, 1, CHUNK_SIZE, 4 * CHUNK_SIZE - 1, 4 * CHUNK_SIZE, 4 * CHUNK_SIZE + 1, 9 * CHUNK_SIZE + 12_345]


def plainly(data: bytes, *kinds: str) -> dict[str, str]:
    return {kind: hashlib.new(kind, data).hexdigest() for kind in kinds}


@pytest.mark.parametrize("size", SIZES)
def test_a_file(tmp_path: Path, size: int) -> None:
    data = random.Random(size).randbytes(size)
    (tmp_path / "f").write_bytes(data)
    assert digest_file(tmp_path / "f") == plainly(data, "sha256", "md5", "sha512", "sha3_512")


def test_without_preadv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODS_PORTABLE", "1")
    data = random.Random(1).randbytes(5 * CHUNK_SIZE)
    (tmp_path / "f").write_bytes(data)
    assert digest_file(tmp_path / "f")["sha3_512"] == hashlib.sha3_512(data).hexdigest()


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        digest_file(tmp_path / "f")
    with pytest.raises(FileNotFoundError):
        FurtherDigests().file(tmp_path / "f", 1)


def test_it_can_be_stopped(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(20 * CHUNK_SIZE))
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Stopping

    with pytest.raises(Stopping):
        digest_file(tmp_path / "f", check)
    assert calls == 3


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 700_000), max_size=6), st.integers(0, 9))
def test_a_stream_in_blocks_of_any_size(lengths: list[int], seed: int) -> None:
    data = random.Random(seed).randbytes(sum(lengths))
    digests, start = FurtherDigests(), 0
    for length in lengths:
        digests.update(data[start : start + length])
        start += length
    assert digests.hexdigests() == plainly(data, "md5", "sha512", "sha3_512")


@pytest.mark.parametrize("length", [0, 1, CHUNK_SIZE, CHUNK_SIZE + 7, 3 * CHUNK_SIZE])
def test_a_stream_behind_the_beginning_of_a_file(tmp_path: Path, length: int) -> None:
    data = random.Random(2).randbytes(2 * CHUNK_SIZE + 100)
    (tmp_path / "f").write_bytes(data)
    digests = FurtherDigests()
    digests.file(tmp_path / "f", length)
    digests.update(b"tail")
    assert digests.hexdigests() == plainly(data[:length] + b"tail", "md5", "sha512", "sha3_512")


def test_what_is_complete() -> None:
    assert complete(package("A.pkg"))
    assert not complete(package("A.pkg", hashes={}))
    assert not complete(package("A.pkg", hashes={"md5": "0" * 32, "sha512": "0" * 128}))


def test_hashes_are_no_change_by_anybody() -> None:
    before = package("A.pkg", hashes={})
    after = package("A.pkg")
    keep = Decision(action=Action.KEEP, presence=Presence.HELD, reason="because")
    for actor in ("system", ""):
        assert events_of(before, after, keep, actor=actor, at=5) == []


class Queue:
    """A store that only takes jobs."""

    def __init__(self) -> None:
        self.jobs: list[Any] = []

    async def enqueue(self, job: Any) -> bool:
        """As `Store.enqueue`."""
        self.jobs.append(job)
        return True


async def asked(*packages: Package, wait_ms: int = 0) -> tuple[list[bool], list[Any]]:
    queue, clock = Queue(), Clock()
    none: Any = None
    digests = Digests(
        store=queue,  # type: ignore[arg-type]
        catalogue=none,
        blobs=none,
        holdings=none,
        packages=none,
        now=clock,
    )
    answers = []
    for one in packages:
        answers.append(await digests.ensure(one))
        clock.ms += wait_ms
    return answers, queue.jobs


def test_a_job_is_queued_once_for_the_same_bytes() -> None:
    bare = package("A.pkg", hashes={})
    answers, jobs = asyncio.run(asked(bare, bare, bare))
    assert answers == [False] * 3
    (job,) = jobs
    assert (job.name, job.queue) == ("package.digest", "hash")
    assert job.key == f"digest:{bare.id}:{bare.body.sha256[:16]}"
    assert job.args == {"package": bare.id, "sha256": bare.body.sha256}
    _, jobs = asyncio.run(asked(bare, package("A.pkg", b"other", hashes={})))
    assert len(jobs) == 2, "other bytes"
    _, jobs = asyncio.run(asked(bare, bare, wait_ms=module._ASK_AGAIN_MS))
    assert len(jobs) == 2, "a job that failed is queued again after a while"


def test_nothing_is_queued_that_cannot_be_done_or_is_done() -> None:
    bare = package("A.pkg", hashes={})
    away = replace(bare, held_sha256="")
    old = replace(bare, held_sha256="0" * 64)
    assert asyncio.run(asked(away, old)) == ([False, False], [])
    assert asyncio.run(asked(package("A.pkg"))) == ([True], [])
