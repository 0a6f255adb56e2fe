"""One run: the nodes start, the steps are done, everything is made whole, and the oracle has the last word.

The time that is allowed is that of a machine which does nothing else. Where others take the processor away, a second
counts as much less as a little work takes longer than its processor time; so a run on a busy machine is slow, not red.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.mongod import Mongod
from tests.harness.zygote import Zygote

from .actions import Actions
from .ledger import Content
from .oracle import Oracle
from .plan import FIRST, MIB, NAMES, Plan
from .reader import Reader
from .world import RECONCILE_S, World, processor_share

ALLOWANCE_S = 10.0  #: for the bytes, and for five nodes, their peers and their watcher on two cores
SETTLE_S = 2 * RECONCILE_S + ALLOWANCE_S
MOST_S = 240.0  #: however busy the machine is
POLL_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a run went."""

    plan: Plan
    wrong: list[str]  #: nothing, if all is well
    settled_s: float  #: from when the network was whole until nothing was unsettled
    share: float  #: of the processor that this machine gave us meanwhile, 0 to 1
    total_s: float
    downloads: int  #: right ones, on the way
    put_off: list[str]  #: what is not there and right, because a time is shown
    story: list[str]
    logs: list[str]

    def __str__(self) -> str:
        end = "all is well" if not self.wrong else f"{len(self.wrong)} things are wrong"
        end += f", {len(self.put_off)} put off" if self.put_off else ""
        return (
            f"seed {self.plan.seed}: {len(self.plan.steps)} steps, settled in {self.settled_s:.1f} s "
            f"at {self.share:.0%}, {self.total_s:.1f} s in all, {self.downloads} downloads: {end}"
        )

    def report(self) -> str:
        """All that helps to find out why."""
        parts = [
            str(self),
            *(f"  ! {text}" for text in self.wrong),
            *(f"  ~ {text}" for text in self.put_off),
        ]
        parts.append(str(self.plan).partition("\n  0 ")[0])
        return "\n".join([*parts, *self.story, *self.logs])


def run(seed: int, root: Path, mongod: Mongod, steps: int | None = None) -> Result:
    """Do the steps of a seed, or only the first ones."""
    plan = Plan.draw(seed, steps)
    began = time.monotonic()
    with Zygote() as zygote, World(plan, root, zygote, mongod) as world:
        world.start_all()
        actions, oracle = Actions(world), Oracle(world)
        for number in range(FIRST):
            if number == plan.early:
                for joiner, inviter in plan.links:
                    told = world.join(joiner, inviter)
                    assert told == "joined", told
            node = number % len(world.nodes) if number % 2 else plan.links[0][1]
            actions.put(node, NAMES[number], Content(key=-1 - number, size=MIB // (1 + number % 3)))
        with Reader(world) as reader:
            for step in plan.steps:
                actions.act(step)
            world.mend()
            wrong, settled_s, counted_s = settle(oracle)
            while not wrong and world.look_at_damage():
                wrong, further_s, further_counted_s = settle(oracle)
                settled_s, counted_s = settled_s + further_s, counted_s + further_counted_s
        wrong += oracle.broken()
        if not reader.downloads and steps is None:  # the first steps alone may take no time at all
            wrong.append("not one download went well on the way: nothing was read while the steps were done")
        if not wrong:
            wrong += world.end()
        return Result(
            plan=plan, wrong=wrong, settled_s=settled_s, share=counted_s / settled_s, total_s=time.monotonic() - began,
            downloads=reader.downloads, put_off=oracle.put_off, story=actions.story,
            logs=list(world.logs()) if wrong else [],
        )  # fmt: skip


def settle(oracle: Oracle) -> tuple[list[str], float, float]:
    """Wait until nothing is unsettled: what is, the seconds that it took, and how many of them count."""
    began = last = time.monotonic()
    counted_s = 0.0
    while True:
        wrong = oracle.unsettled()
        share = processor_share()
        now = time.monotonic()
        counted_s, last = counted_s + (now - last) * share, now
        if not wrong or counted_s > SETTLE_S or now - began > MOST_S:
            return wrong, now - began, counted_s
        time.sleep(POLL_S)
