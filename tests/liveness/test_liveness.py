"""Whatever is done to five nodes, in the end every node holds what the rule says, or says why not: see the package."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.mongod import Mongod

from .rounds import run

RUNS = int(os.environ.get("ODS_LIVENESS_RUNS", "0"))
SEED = os.environ.get("ODS_LIVENESS_SEED", "")
STEPS = os.environ.get("ODS_LIVENESS_STEPS", "")
USUAL = (20, 21)  #: one run with nodes of one process each, one with workers beside some


def seeds() -> list[int]:
    """The seeds of this session: the same in all processes of pytest-xdist."""
    if SEED:
        return [int(SEED) + number for number in range(max(1, RUNS))]
    if RUNS:
        first = random.Random(os.environ.get("PYTEST_XDIST_TESTRUNUID")).randrange(1_000_000)
        return [first + number for number in range(RUNS)]
    return list(USUAL)


@pytest.mark.mongo
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", seeds())
def test_every_node_holds_what_the_rule_says_or_says_why_not(
    seed: int, tmp_path: Path, mongod: Mongod, record_property: Callable[[str, object], None]
) -> None:
    # Those of nodes that are killed: they hold up the next start of the node for as long as they may last.
    result = run(seed, tmp_path, mongod.end_transactions_after(3), int(STEPS) if STEPS else None)
    record_property("liveness", str(result))
    assert not result.wrong, result.report()
