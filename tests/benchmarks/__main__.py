"""`python -m tests.benchmarks [case ...]`."""

import argparse
import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from . import cases
from .cases import Bench, Row
from .pages import pages

CASES = {**cases.CASES, "pages": pages}


def main() -> None:
    """Run cases and print one table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="case", help=", ".join(CASES))
    parser.add_argument("--scale", type=float, default=1.0, help="sizes by this factor, for a quick look")
    parser.add_argument("--keep", type=Path, default=Path(".bench"), help="where figures are written")
    arguments = parser.parse_args()
    unknown = set(arguments.cases) - set(CASES)
    if unknown:
        parser.error(f"there is no case {', '.join(sorted(unknown))}; cases: {', '.join(CASES)}")
    arguments.keep.mkdir(exist_ok=True)
    rows: list[Row] = []
    for name in arguments.cases or CASES:
        print(f"{name} ...", flush=True)
        root = Path(tempfile.mkdtemp(prefix="run-", dir=arguments.keep)).absolute()
        try:
            rows += CASES[name](Bench(root, arguments.scale))
        finally:
            shutil.rmtree(root, ignore_errors=True)
    show(rows)
    figures = [{**asdict(row), "ratio": row.ratio} for row in rows]
    (arguments.keep / "figures.json").write_text(json.dumps(figures, indent=1))


def show(rows: list[Row]) -> None:
    """Print the table."""
    line = "{:<42} {:>9}  {:<27} {:>9} {:>7}  {:<12} {}"
    print()
    print(line.format("case", "ours", "instead", "theirs", "ratio", "target", "met"))
    for row in rows:
        theirs = f"{row.theirs:.3f} s" if row.theirs else ""
        ratio = f"{row.ratio:.2f}" if row.theirs else ""
        met = "yes" if row.met else "NO"
        print(line.format(row.case, f"{row.ours:.3f} s", row.rival, theirs, ratio, row.target, met))


if __name__ == "__main__":
    main()
