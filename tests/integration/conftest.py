"""One real node for each module of tests."""

from collections.abc import Iterator

import pytest

from tests.harness import Network
from tests.harness.node import NodeProcess


@pytest.fixture(scope="module")
def one_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node on SQLite that lives as long as the module's tests; they use names of their own."""
    with Network(tmp_path_factory.mktemp("one"), settings={"HTTP_CONTEXT": "/ods"}) as network:
        yield network.node("solo")
