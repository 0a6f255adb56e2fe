"""The stores under test: the suite runs over each."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from appliance.store.opening import open_store
from appliance.store.ports import Store
from appliance.store.schema import COLLECTIONS
from tests.fakes.mongod import Mongod

KINDS = ["sqlite", pytest.param("mongo", marks=pytest.mark.mongo)]


class Place:
    """Where one store lives; it can be opened several times, also by other processes."""

    def __init__(self, kind: str, url: str, directory: Path) -> None:
        self.kind = kind
        self.url = url
        self.directory = directory

    async def open(self) -> Store:
        return await open_store(self.url, self.directory)

    def run(self, test: Callable[[Store], Awaitable[Any]]) -> Any:
        """Run a test on a store that is closed afterwards."""

        async def opened() -> Any:
            store = await self.open()
            try:
                return await test(store)
            finally:
                await store.close()

        return asyncio.run(opened())


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _mongod(request: pytest.FixtureRequest) -> Mongod:
    server: Mongod = request.getfixturevalue("mongod")
    return server.end_transactions_after(60)  # an export of a busy machine takes its time


def make_place(kind: str, request: pytest.FixtureRequest, directory: Path) -> Place:
    """An empty store of its own."""
    if kind == "sqlite":
        return Place(kind, "", directory / uuid.uuid4().hex)
    server = _mongod(request)
    return Place(kind, server.url(f"t{uuid.uuid4().hex[:12]}"), directory)


@pytest.fixture
def place(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty store. MongoDB makes one database for all tests and empties it: making indexes takes long."""
    if kind == "sqlite":
        return make_place(kind, request, tmp_path)
    server = _mongod(request)
    with MongoClient(server.url("shared")) as client:
        database = client["shared"]
        for name in COLLECTIONS:
            database[name].delete_many({})
        database["ods_sequences"].update_many({}, {"$set": {"last": 0, "removals": 0}})
    return Place(kind, server.url("shared"), tmp_path)


async def eventually(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    """Wait until a condition holds."""
    end = asyncio.get_running_loop().time() + timeout
    while not condition():
        assert asyncio.get_running_loop().time() < end, "it did not happen in time"
        await asyncio.sleep(0.01)
