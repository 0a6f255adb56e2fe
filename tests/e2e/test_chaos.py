"""Whatever people and power cuts do to a network, in the end every node agrees and every byte is right."""

import contextlib
import hashlib
import os
import random
import signal
import time
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.builders import MIB, make_file
from tests.conftest import BIG
from tests.harness import Network, NodeProcess, eventually
from tests.harness.command import ods

SECONDS = 120
NAMES = [f"Package {number}.pkg" for number in range(25)]
SIZES = (0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB, 40 * MIB)
STAGES = ("dev", "test", "prod")
UNSETTLED = {"arriving", "waiting", "damaged"}


class Chaos:
    """Does one random thing after another to some nodes."""

    def __init__(self, nodes: list[NodeProcess], seed: int, directory: Path) -> None:
        self._nodes = nodes
        self._chance = random.Random(seed)
        self._directory = directory
        self._acts = {
            self.upload: 20, self.withdraw: 3, self.change: 6, self.kill: 2, self.stop: 1, self.freeze: 1,
            self.verify: 2, self.interfere: 1,
        }  # fmt: skip

    def act(self) -> None:
        """Do something to one of the nodes; that it answers with an error, or not at all, is allowed."""
        (act,) = self._chance.choices(list(self._acts), list(self._acts.values()))
        with contextlib.suppress(OSError, HTTPException):  # the node stands still
            act(self._chance.choice(self._nodes), self._chance.choice(NAMES))
        time.sleep(self._chance.random() * 0.4)

    def upload(self, node: NodeProcess, name: str) -> None:
        file = make_file(self._directory / name, self._chance.choice(SIZES), self._chance.getrandbits(32))
        replace = {"replace": "true"} if self._chance.random() < 0.6 else {}
        node.upload(file.path, name, stage=self._chance.choice(STAGES), **replace)

    def withdraw(self, node: NodeProcess, name: str) -> None:
        node.request("DELETE", f"/api/v1/packages/{name.replace(' ', '%20')}")

    def change(self, node: NodeProcess, name: str) -> None:
        body = f'{{"stage": "{self._chance.choice(STAGES)}"}}'.encode()
        node.request("PATCH", f"/api/v1/packages/{name.replace(' ', '%20')}", body)

    def verify(self, node: NodeProcess, name: str) -> None:
        node.request("POST", f"/api/v1/packages/{name.replace(' ', '%20')}/verify")

    def interfere(self, node: NodeProcess, _name: str) -> None:
        for transfer in node.api("GET", "/transfers?limit=2")["items"]:
            act = self._chance.choice(("cancel", "retry", "prioritize"))
            node.request("POST", f"/api/v1/transfers/{transfer['id']}/{act}")
            if act == "cancel":  # nothing else brings it back
                node.request("POST", f"/api/v1/transfers/{transfer['id']}/retry")

    def kill(self, node: NodeProcess, _name: str) -> None:
        node.kill9()
        self._again(node)

    def stop(self, node: NodeProcess, _name: str) -> None:
        node.stop()
        self._again(node)

    def freeze(self, node: NodeProcess, _name: str) -> None:
        os.kill(node.pid, signal.SIGSTOP)
        time.sleep(self._chance.random() * 4)
        os.kill(node.pid, signal.SIGCONT)

    def _again(self, node: NodeProcess) -> None:
        time.sleep(self._chance.random() * 2)
        node.start()


def disagreements(nodes: list[NodeProcess]) -> Iterator[str]:
    """What the nodes do not see alike, and what is on its way and could be here."""
    seen: dict[str, set[str]] = {}
    for node in nodes:
        for package in node.api("GET", "/packages?limit=500&withdrawn=true")["items"]:
            seen.setdefault(package["id"], set()).add(
                f"{package['filename']} {package['sha256']} {package['stage']} {package['withdrawn']}"
            )
            if package["presence"] in UNSETTLED and "not registered" not in package["reason"]:
                yield f"{node.name}: {package['filename']} is {package['presence']}: {package['reason']}"
    yield from (str(sorted(views)) for views in seen.values() if len(views) > 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not BIG, reason="takes minutes: ODS_TEST_BIG=1")
def test_a_network_that_is_treated_badly_settles(any_network: Network, tmp_path: Path) -> None:
    a, b, c, d, e = nodes = [
        any_network.node(name, NODE_STAGE=stage)
        for name, stage in zip("abcde", ("prod", "prod", "test", "dev", "prod"), strict=True)
    ]
    for joiner, inviter in ((b, a), (c, b), (d, c), (e, b), (e, d)):
        joiner.join(inviter)
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chaos = Chaos(nodes, seed, tmp_path)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        chaos.act()
    eventually(lambda: not list(disagreements(nodes)), 120, lambda: "\n".join(disagreements(nodes)))
    for node in nodes:
        held = [p for p in node.api("GET", "/packages?limit=500")["items"] if p["presence"] == "held"]
        for package in held:
            answer = node.download(package["filename"])
            assert (answer.status, hashlib.sha256(answer.body).hexdigest()) == (200, package["sha256"]), (
                package
            )
        assert "Traceback" not in node.log_text(), node.tail(40)
        print(f"{node.name}: {len(held)} packages, peak resident memory {node.rss_peak() // MIB} MiB")
        node.stop()
        done = ods(node, "fsck", "--read-data")
        assert done.returncode == 0, f"{node.name}: {done.stdout}"
