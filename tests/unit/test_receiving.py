"""The receiver: what its file has is a true beginning of what was sent, whatever fails."""

import asyncio
import hashlib
import os
import random
import threading
from pathlib import Path

import pytest

from appliance.domain.errors import StorageError, StorageFull
from appliance.service import receiving as module
from appliance.service.receiving import BLOCK, WAITING, Receiver
from tests.builders import manifest_of

DATA = random.Random(5).randbytes(12 * BLOCK + 333)


async def send(receiver: Receiver, data: bytes, block: int = 100_000) -> None:
    for start in range(0, len(data), block):
        await receiver.write(data[start : start + block])


def test_all_of_it(tmp_path: Path) -> None:
    async def go() -> None:
        receiver = await Receiver.open(tmp_path / "f", 0)
        receiver.checksum = hashlib.sha1()
        await send(receiver, DATA)
        await receiver.sync()
        assert (tmp_path / "f").read_bytes() == DATA
        assert receiver.checksum.hexdigest() == hashlib.sha1(DATA).hexdigest()
        assert await receiver.manifest() == manifest_of(DATA)
        assert receiver.sound
        receiver.close()
        receiver.close()
        assert not receiver.sound

    asyncio.run(go())


def test_going_on_after_a_restart_cuts_off_what_does_not_count(tmp_path: Path) -> None:
    async def go() -> None:
        cut = 2 * BLOCK + 7
        (tmp_path / "f").write_bytes(DATA[:cut] + b"not acknowledged")
        receiver = await Receiver.open(tmp_path / "f", cut)
        assert receiver.offset == cut
        await send(receiver, DATA[cut:])
        assert await receiver.manifest() == manifest_of(DATA)
        assert (tmp_path / "f").read_bytes() == DATA
        receiver.close()

    asyncio.run(go())


def test_nothing_lands_behind_a_block_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's length is what a client is told after a crash, so there must be no hole below it."""
    real, calls = module.write_at, 0
    tried = threading.Event()

    def flaky(descriptor: int, data: memoryview, offset: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            tried.wait(5)  # all blocks are queued before the failure is known
            raise StorageFull("full, for a moment")
        real(descriptor, data, offset)

    monkeypatch.setattr(module, "write_at", flaky)

    async def go() -> None:
        receiver = await Receiver.open(tmp_path / "f", 0)
        for start in range(0, 6 * BLOCK, BLOCK):
            await receiver.write(DATA[start : start + BLOCK])
        tried.set()
        with pytest.raises(StorageFull):
            await receiver.flush()
        receiver._disk.submit(lambda: None).result()  # whatever is queued has had its turn
        assert not receiver.sound
        receiver.close()

    asyncio.run(go())
    assert (tmp_path / "f").read_bytes() == DATA[: 2 * BLOCK]


def test_the_sender_is_held_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, real = threading.Event(), module.write_at

    def slow(descriptor: int, data: memoryview, offset: int) -> None:
        gate.wait(10)
        real(descriptor, data, offset)

    monkeypatch.setattr(module, "write_at", slow)

    async def go() -> None:
        receiver = await Receiver.open(tmp_path / "f", 0)
        sending = asyncio.create_task(send(receiver, DATA, BLOCK))
        done, _ = await asyncio.wait([sending], timeout=0.2)
        assert not done
        assert receiver.offset == (WAITING + 1) * BLOCK
        gate.set()
        await sending
        assert await receiver.manifest() == manifest_of(DATA)
        receiver.close()

    asyncio.run(go())


def test_the_floor_is_looked_at_while_bytes_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK", 2 * BLOCK)

    def check() -> None:
        if (tmp_path / "f").stat().st_size >= 6 * BLOCK:
            raise StorageFull

    async def go() -> None:
        receiver = await Receiver.open(tmp_path / "f", 0, check=check)

        async def all_of_it() -> None:
            await send(receiver, DATA, BLOCK)
            await receiver.flush()

        with pytest.raises(StorageFull):
            await all_of_it()
        receiver.close()

    asyncio.run(go())
    assert (tmp_path / "f").read_bytes() == DATA[: 6 * BLOCK]


def test_a_rewind_forgets_the_last_request(tmp_path: Path) -> None:
    async def go() -> None:
        receiver = await Receiver.open(tmp_path / "f", 0)
        await send(receiver, DATA)
        await receiver.rewind(5)
        assert receiver.closed
        assert (tmp_path / "f").read_bytes() == DATA[:5]
        again = await Receiver.open(tmp_path / "f", 5)
        await send(again, DATA[5:])
        assert await again.manifest() == manifest_of(DATA)
        again.close()

    asyncio.run(go())


def test_a_place_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        asyncio.run(Receiver.open(tmp_path / "nowhere" / "f", 0))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_device_is_told_as_such() -> None:
    descriptor = os.open("/dev/full", os.O_RDWR)
    try:
        with pytest.raises(StorageFull):
            module.write_at(descriptor, b"x", 0)
    finally:
        os.close(descriptor)
