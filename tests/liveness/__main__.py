"""Runs of the liveness machine without pytest, and the search for the fewest steps that still fail."""

import argparse
import tempfile
from pathlib import Path

from tests.fakes.mongod import Mongod

from .plan import Plan
from .rounds import Result, run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.liveness", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--runs", type=int, default=1, help="this many seeds, from this one on")
    parser.add_argument("--steps", type=int, help="only the first steps")
    parser.add_argument(
        "--shrink", action="store_true", help="look for the fewest first steps that still fail"
    )
    parser.add_argument("--tries", type=int, default=3, help="runs until a list of steps counts as right")
    parser.add_argument("--plan", action="store_true", help="only show the steps")
    given = parser.parse_args()
    if given.plan:
        print(Plan.draw(given.seed, given.steps))
        return
    mongod = Mongod().start().end_transactions_after(3)
    try:
        if given.shrink:
            print(_shrink(given.seed, given.tries, mongod).report())
            return
        for seed in range(given.seed, given.seed + given.runs):
            result = _run(seed, given.steps, mongod)
            print(result.report() if result.wrong else result, flush=True)
    finally:
        mongod.dispose()


def _run(seed: int, steps: int | None, mongod: Mongod) -> Result:
    with tempfile.TemporaryDirectory(prefix=f"liveness-{seed}-") as directory:
        return run(seed, Path(directory), mongod, steps)


def _shrink(seed: int, tries: int, mongod: Mongod) -> Result:
    """Bisect the number of first steps: a run is no proof that there is no fault, so each number is tried again."""

    def failure(steps: int | None) -> Result | None:
        for _ in range(tries):
            result = _run(seed, steps, mongod)
            print(result, flush=True)
            if result.wrong:
                return result
        return None

    best = failure(None)
    if best is None:
        raise SystemExit(f"seed {seed} did not fail in {tries} runs")
    right, wrong = 0, len(best.plan.steps)
    while wrong - right > 1:
        middle = (right + wrong) // 2
        found = failure(middle)
        if found is None:
            right = middle
        else:
            wrong, best = middle, found
    return best


if __name__ == "__main__":
    main()
