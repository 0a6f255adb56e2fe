"""One real node for each module of tests; and notifications without a node."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

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
