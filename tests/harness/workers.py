"""`ods worker` beside a node."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from .node import STOP_S, NodeProcess, die_with_parent


@contextlib.contextmanager
def workers(node: NodeProcess, count: int = 1) -> Iterator[list[subprocess.Popen[bytes]]]:
    """So many worker processes, until the block ends; their output is in the node's log.

    Raises:
        AssertionError: One did not stop when it was asked to; it is killed.
    """
    running: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            with node.log.open("ab") as log:
                running.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "appliance", "worker"],
                        env=node.environment(),
                        cwd=node.directory,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        preexec_fn=die_with_parent,  # noqa: PLW1509
                    )
                )
        yield running
    finally:
        for process in running:
            process.terminate()
        hung = [process for process in running if not _ends(process)]
    assert not hung, f"{len(hung)} workers of {node.name} did not stop within {STOP_S:g} s:\n{node.tail()}"


def _ends(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    return True
