"""Queries of one round of the event loop go to the database together, and fail alone."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.errors import StoreUnavailable
from appliance.store.sqlite.connection import create
from appliance.store.sqlite.place import FilePlace
from appliance.store.sqlite.readers import Readers


def with_readers(tmp_path: Path, test: Callable[[Readers], Awaitable[None]]) -> None:
    async def go() -> None:
        create(tmp_path / "db")
        readers = Readers(tmp_path / "db", FilePlace(tmp_path / "db"))
        try:
            await asyncio.wait_for(test(readers), 10)
        finally:
            await readers.close()

    asyncio.run(go())


def number(value: int) -> Callable[[sqlite3.Connection], Any]:
    return lambda connection: connection.execute("SELECT ?", (value,)).fetchone()[0]


def broken(connection: sqlite3.Connection) -> Any:
    return connection.execute("SELECT * FROM nothing").fetchone()


@pytest.mark.parametrize(("count", "tasks"), [(1, 1), (8, 1), (9, 3), (100, 3)])
def test_together_in_a_few_threads(tmp_path: Path, count: int, tasks: int) -> None:
    async def test(readers: Readers) -> None:
        groups: list[int] = []
        rounds = readers._rounds
        run = rounds._run
        rounds._run = lambda group, loop: (groups.append(len(group)), run(group, loop))[1]  # type: ignore
        answers = await asyncio.gather(*(readers.run(number(value)) for value in range(count)))
        assert answers == list(range(count))
        assert len(groups) == tasks
        assert sum(groups) == count

    with_readers(tmp_path, test)


def test_one_that_fails_fails_alone(tmp_path: Path) -> None:
    async def test(readers: Readers) -> None:
        answers = await asyncio.gather(
            readers.run(number(1)), readers.run(broken), readers.run(number(2)), return_exceptions=True
        )
        assert answers[::2] == [1, 2]
        assert isinstance(answers[1], StoreUnavailable)

    with_readers(tmp_path, test)


def test_a_caller_that_went_away_hurts_nobody(tmp_path: Path) -> None:
    async def test(readers: Readers) -> None:
        gone = asyncio.create_task(readers.run(number(1)))
        stays = asyncio.create_task(readers.run(number(2)))
        await asyncio.sleep(0)
        gone.cancel()
        assert await stays == 2
        with pytest.raises(asyncio.CancelledError):
            await gone

    with_readers(tmp_path, test)


def test_closing_answers_what_was_asked_before(tmp_path: Path) -> None:
    async def test(readers: Readers) -> None:
        asked = asyncio.create_task(readers.run(number(1)))
        await asyncio.sleep(0)
        await readers.close()
        assert await asked == 1
        with pytest.raises(StoreUnavailable):
            await readers.run(number(2))

    with_readers(tmp_path, test)
