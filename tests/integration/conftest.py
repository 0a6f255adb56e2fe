"""One real node for each module of tests; stores of both kinds; and notifications without a node."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from appliance.store.opening import open_store
from appliance.store.ports import Store
from tests.conftest import DATABASES
from tests.fakes.receiver import Receiver
from tests.harness import Network
from tests.harness.node import NodeProcess
from tests.harness.post import run_post

from .desk import run_desk


@pytest.fixture(scope="module")
def one_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node on SQLite that lives as long as the module's tests; they use names of their own."""
    with Network(tmp_path_factory.mktemp("one"), settings={"HTTP_CONTEXT": "/ods"}) as network:
        yield network.node("solo")


@pytest.fixture(params=DATABASES)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database: SQLite in `tmp_path`, then MongoDB."""
    if request.param != "mongo":
        return ""
    name = f"{request.module.__name__}{tmp_path.name[-20:]}".replace(".", "")
    return str(request.getfixturevalue("mongod").url(name[-38:]))


@pytest.fixture
def with_store(store_url: str, tmp_path: Path) -> Callable[[Callable[[Store], Awaitable[None]]], None]:
    """Runs a test with a store, on SQLite and on MongoDB."""

    def run(test: Callable[[Store], Awaitable[None]]) -> None:
        async def inside() -> None:
            store = await open_store(store_url, tmp_path)
            try:
                await test(store)
            finally:
                await store.close()

        asyncio.run(inside())

    return run


@pytest.fixture
def post(tmp_path: Path) -> Callable[..., None]:
    """Runs a test with a `Post`, see there."""
    return lambda test, **options: run_post(tmp_path, test, **options)


@pytest.fixture
def desk(tmp_path: Path) -> Callable[..., None]:
    """Runs a test with a job runner, see `Desk`."""
    return lambda test, **options: run_desk(tmp_path, test, **options)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver of webhooks that answers 200."""
    with Receiver() as made:
        yield made
