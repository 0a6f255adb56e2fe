"""One run: the nodes start, the steps are done, everything is made whole, and the oracle has the last word."""

import time
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.mongod import Mongod
from tests.harness.zygote import Zygote

from .actions import Actions
from .ledger import Content
from .oracle import Oracle
from .plan import MIB, NAMES, Plan
from .reader import Reader
from .world import RECONCILE_S, World

ALLOWANCE_S = 10.0  #: for the bytes, and for five nodes, their peers and their watcher on two cores
SETTLE_S = 2 * RECONCILE_S + ALLOWANCE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a run went."""

    plan: Plan
    wrong: list[str]  #: nothing, if all is well
    settled_s: float  #: from when the network was whole until nothing was unsettled
    total_s: float
    downloads: int  #: right ones, on the way
    story: list[str]
    logs: list[str]

    def __str__(self) -> str:
        end = "all is well" if not self.wrong else f"{len(self.wrong)} things are wrong"
        return (
            f"seed {self.plan.seed}: {len(self.plan.steps)} steps, settled in {self.settled_s:.1f} s, "
            f"{self.total_s:.1f} s in all, {self.downloads} downloads: {end}"
        )

    def report(self) -> str:
        """All that helps to find out why."""
        parts = [str(self), *(f"  ! {text}" for text in self.wrong), str(self.plan).partition("\n  0 ")[0]]
        return "\n".join([*parts, *self.story, *self.logs])


def run(seed: int, root: Path, mongod: Mongod, steps: int | None = None) -> Result:
    """Do the steps of a seed, or only the first ones."""
    plan = Plan.draw(seed, steps)
    began = time.monotonic()
    with Zygote() as zygote, World(plan, root, zygote, mongod) as world:
        world.start_all()
        actions, oracle = Actions(world), Oracle(world)
        for number in range(plan.early):
            name = NAMES[number % len(NAMES)]
            actions.put(plan.links[0][1], name, Content(key=-1 - number, size=MIB // (1 + number % 3)))
        for joiner, inviter in plan.links:
            told = world.join(joiner, inviter)
            assert told == "joined", told
        with Reader(world) as reader:
            for step in plan.steps:
                actions.act(step)
            world.mend()
            whole = time.monotonic()
            wrong = oracle.unsettled()
            while wrong and time.monotonic() - whole < SETTLE_S:
                time.sleep(0.25)
                wrong = oracle.unsettled()
            settled_s = time.monotonic() - whole
        world.notice_ends()
        wrong += oracle.broken()
        return Result(
            plan=plan, wrong=wrong, settled_s=settled_s, total_s=time.monotonic() - began,
            downloads=reader.downloads, story=actions.story, logs=list(world.logs()) if wrong else [],
        )  # fmt: skip
