"""Macs that download at random while everything happens: whatever they get is what its ETag says, and was put in."""

import hashlib
import random
import threading
from http.client import HTTPException

from tests.harness.node import download_path

from .plan import NAMES
from .world import World

PAUSE_S = 0.1


class Reader:
    """A thread that downloads, one file after the other, as long as the block lasts."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = random.Random(world.plan.seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)
        self.downloads = 0

    def __enter__(self) -> "Reader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(PAUSE_S):
            node, name = self._chance.randrange(len(self._world.nodes)), self._chance.choice(NAMES)
            fault = download_fault(self._world, node, name)
            if fault is None:
                self.downloads += 1
            elif fault:
                self._world.ledger.fault(fault)


def download_fault(world: World, node: int, name: str) -> str | None:
    """What is wrong with a download; None if it is right, "" if there is nothing to download or to find fault with.

    Bytes that were broken on purpose at this node are no fault before the node has looked at them, or was asked to:
    the rule is about what a node knows. At the end the oracle looks at all of them.
    """
    process = world.nodes[node]
    try:
        answer = process.request("GET", download_path(name), anonymous=True, timeout=8)
    except (OSError, HTTPException):
        return ""  # killed, frozen, or its file got shorter while it was sent
    if answer.status != 200:
        return ""
    sha256, told = hashlib.sha256(answer.body).hexdigest(), answer.headers["etag"].strip('"')
    if sha256 != told:
        return "" if (node, told) in world.ledger.damaged else f"{process.name} serves wrong bytes as {name}"
    return None if world.ledger.known(name, sha256) else f"{process.name} serves other bytes as {name}"
