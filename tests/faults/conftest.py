"""Fixtures of the faults."""

from collections.abc import Iterator

import pytest

from tests.conftest import running_mongod
from tests.fakes.mongod import Mongod


@pytest.fixture
def own_mongod() -> Iterator[Mongod]:
    """A server that the test may kill."""
    with running_mongod() as server:
        yield server
