"""A seed is a promise: the same steps each time, and the same first steps when the others are left away."""

import pytest

from .actions import Actions
from .plan import Plan


@pytest.mark.parametrize("seed", range(20))
def test_a_seed_draws_the_same_plan_each_time_and_a_prefix_of_it(seed: int) -> None:
    plan, part = Plan.draw(seed), Plan.draw(seed, 5)
    assert plan == Plan.draw(seed)
    assert (part.nodes, part.links, part.steps) == (plan.nodes, plan.links, plan.steps[:5])
    assert any(node.mongo for node in plan.nodes)
    assert not all(node.mongo for node in plan.nodes)
    assert any(node.workers for node in plan.nodes) == bool(seed % 2)


def test_every_kind_of_step_can_be_carried_out() -> None:
    assert all(callable(getattr(Actions, f"_{act}", None)) for act in Plan.WEIGHTS)
