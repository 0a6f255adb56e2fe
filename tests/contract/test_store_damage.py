"""An SQLite file that was damaged: it is told at the start, and while the node runs, in one sentence."""

import asyncio
import contextlib
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.domain.errors import InvalidSettings, StoreDamaged, StoreMoved
from appliance.store.opening import FILE_NAME, open_store
from appliance.store.ports import Insert

PAGE = 4096


async def fill(directory: Path, count: int = 400) -> None:
    store = await open_store("", directory)
    await store.batch(
        [
            Insert("packages", {"_id": f"p{n:04}", "filename": f"{n}.pkg", "notes": "n" * 700})
            for n in range(count)
        ]
    )
    await store.close()


async def read_all(directory: Path) -> int:
    store = await open_store("", directory)
    try:
        return len(await store.find("packages", limit=10_000))
    finally:
        await store.close()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a sound database."""
    directory = tmp_path_factory.mktemp("sound")
    asyncio.run(fill(directory))
    return directory


@pytest.fixture
def directory(sound: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    target = tmp_path / "data"
    shutil.copytree(sound, target)
    return target


def header(data: bytearray) -> bytearray:
    data[:100] = b"\xff" * 100
    return data


def middle(data: bytearray) -> bytearray:
    pages = len(data) // PAGE
    for page in range(pages // 3, pages // 3 + 8):
        data[page * PAGE : page * PAGE + 64] = b"\xa5" * 64
    return data


def schema(data: bytearray) -> bytearray:
    data[100:200] = b"\x00" * 100
    return data


def table_name(data: bytearray) -> bytearray:
    data[:] = data.replace(b"packages", b"packagez")
    return data


def half(data: bytearray) -> bytearray:
    return data[: len(data) // 2 // PAGE * PAGE]


def ragged(data: bytearray) -> bytearray:
    return data[: len(data) - PAGE - 100]


def zeros(data: bytearray) -> bytearray:
    return bytearray(len(data))


@pytest.mark.parametrize("damage", [header, middle, schema, table_name, half, ragged, zeros])
def test_a_damaged_file_is_refused_with_what_to_do(
    directory: Path, damage: Callable[[bytearray], bytearray]
) -> None:
    file = directory / FILE_NAME
    file.write_bytes(damage(bytearray(file.read_bytes())))
    before = file.read_bytes()
    with pytest.raises((StoreDamaged, InvalidSettings), match=r"is damaged.*ods import") as caught:
        asyncio.run(read_all(directory))
    assert "\n" not in caught.value.message
    assert file.read_bytes() == before, "what is left is not touched"


def test_any_damage_is_found_or_does_no_harm(directory: Path) -> None:
    file = directory / FILE_NAME
    whole = file.read_bytes()
    source = random.Random(11)
    found = 0
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(source.randrange(1, 4)):
            start = source.randrange(len(data) // PAGE) * PAGE + source.choice((0, 0, source.randrange(PAGE)))
            length = min(source.randrange(1, 40), len(data) - start)
            data[start : start + length] = source.randbytes(length)
        for name in ("-wal", "-shm"):
            (directory / f"{FILE_NAME}{name}").unlink(missing_ok=True)
        file.write_bytes(data)
        try:
            asyncio.run(read_all(directory))
        except (StoreDamaged, InvalidSettings):
            found += 1
    assert found > 20


@pytest.mark.parametrize("name", ["-wal", "-shm"])
def test_garbage_beside_the_file_does_no_harm(directory: Path, name: str) -> None:
    (directory / f"{FILE_NAME}{name}").write_bytes(random.Random(1).randbytes(40_000))
    assert asyncio.run(read_all(directory)) == 400


def test_damage_while_it_is_open_is_an_outage_and_no_other_error(directory: Path) -> None:
    async def test() -> None:
        store = await open_store("", directory)
        try:
            file = directory / FILE_NAME
            data = bytearray(file.read_bytes())
            for page in range(2, len(data) // PAGE):
                data[page * PAGE : (page + 1) * PAGE] = b"\x5a" * PAGE
            file.write_bytes(data)
            with contextlib.suppress(StoreDamaged):  # it may not meet any of it
                await store.ping()
            for number in range(2):
                with pytest.raises(StoreDamaged):
                    await store.find("packages", limit=10_000)
                with contextlib.suppress(StoreDamaged):  # the pages that it needs may be in memory
                    await store.insert("packages", {"_id": f"new{number}"})
                with pytest.raises(StoreDamaged):
                    await store.ping()
            with pytest.raises(StoreDamaged):
                await store.get("packages", "p0399")
        finally:
            await store.close()

    asyncio.run(test())


def test_bytes_that_are_no_document_are_damage(directory: Path) -> None:
    with sqlite3.connect(directory / FILE_NAME) as connection:
        connection.execute("UPDATE packages SET _body = ? WHERE _id = 'p0001'", (b"\x05\x00",))
    connection.close()

    async def test() -> None:
        store = await open_store("", directory)
        try:
            with pytest.raises(StoreDamaged):
                await store.get("packages", "p0001")
            with pytest.raises(StoreDamaged):
                await store.find("packages")
            assert (await store.get("packages", "p0002")) is not None
        finally:
            await store.close()

    asyncio.run(test())


def deleted(file: Path) -> None:
    for path in file.parent.glob(f"{FILE_NAME}*"):
        path.unlink()


def log_deleted(file: Path) -> None:
    file.with_name(f"{FILE_NAME}-wal").unlink()


def replaced(file: Path) -> None:
    shutil.copy(file, file.with_name("other"))
    file.with_name("other").replace(file)


@pytest.mark.parametrize("how", [deleted, log_deleted, replaced])
def test_nothing_is_acknowledged_into_a_file_that_nobody_finds(
    directory: Path, how: Callable[[Path], None]
) -> None:
    async def test() -> None:
        store = await open_store("", directory)
        try:
            await store.insert("packages", {"_id": "before"})
            how(directory / FILE_NAME)
            for number in range(3):
                with pytest.raises(StoreMoved, match=r"stop the node.*ods import"):
                    await store.insert("packages", {"_id": f"after{number}"})
                with pytest.raises(StoreMoved):
                    await store.ping()
                with pytest.raises(StoreMoved):
                    async with store.snapshot():
                        pass
            with contextlib.suppress(StoreMoved):  # of the threads that read, one may open the file only now
                assert await store.get("packages", "after0") is None
        finally:
            await store.close()

    asyncio.run(test())


def test_a_file_that_comes_back_is_written_to_again(directory: Path) -> None:
    async def test() -> None:
        store = await open_store("", directory)
        try:
            away = directory.with_name("away")
            directory.rename(away)
            with pytest.raises(StoreMoved):
                await store.insert("packages", {"_id": "refused"})
            away.rename(directory)
            await store.ping()
            await store.insert("packages", {"_id": "taken"})
        finally:
            await store.close()
        again = await open_store("", directory)
        try:
            assert await again.get("packages", "taken")
            assert await again.get("packages", "refused") is None
        finally:
            await again.close()

    asyncio.run(test())
