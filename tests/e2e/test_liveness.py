"""Whatever is wanted here arrives: no order of changes leaves a package without a job."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.builders import MIB, File, make_file
from tests.fakes.proxy import Meddler, doubled, flip_bit, page
from tests.harness import Network, NodeProcess, eventually, workers

SLOW = 2 * MIB  #: bytes a second until the test lifts the limit, so that packages queue
SETTINGS = {"REPLICATION_RECONCILE_S": "1", "WORKER_LEASE_S": "3", "WORKER_TRANSFER_SLOTS": "2"}


def arrivals(node: NodeProcess) -> list[dict[str, Any]]:
    """The node's transfers that are not done, with the packages that they are of."""
    items: list[dict[str, Any]] = node.api("GET", "/transfers?limit=500")["items"]
    return [item for item in items if item["state"] not in {"done", "cancelled"}]


def wait_all(node: NodeProcess, files: list[File], timeout: float = 60.0) -> None:
    """Wait until a node serves all files, and then until no transfer is open."""

    def missing() -> list[str]:
        return [file.name for file in files if not node.holds(file.name, file.sha256)]

    def why() -> str:
        return f"{node.name} lacks {missing()}: {arrivals(node)}\n{node.tail()}"

    eventually(lambda: not missing(), timeout, why)
    eventually(lambda: not arrivals(node), 10, lambda: f"transfers without an end: {arrivals(node)}")


def queue(
    network: Network, tmp_path: Path, count: int, size: int
) -> tuple[NodeProcess, NodeProcess, list[File]]:
    """Two nodes; most of the first one's packages still wait at the second one for their turn."""
    files = [make_file(tmp_path / f"Tool-{n:02}.pkg", size, n) for n in range(count)]
    a = network.node("a", proxied=True, **SETTINGS)
    for file in files:
        a.publish(file.path)
    network.proxies["a"].limit(SLOW)
    b = network.node("b", **SETTINGS)
    b.join(a)
    eventually(lambda: len(b.api("GET", "/transfers?limit=500")["items"]) == count, 20, "they are not queued")
    return a, b, files


def test_changes_while_a_package_waits_for_its_turn(any_network: Network, tmp_path: Path) -> None:
    a, b, files = queue(any_network, tmp_path, 12, 9 * MIB)
    withdrawn, moved, replaced, cancelled = files[-4:]
    a.api("DELETE", f"/packages/{withdrawn.name}")
    a.api("PATCH", f"/packages/{moved.name}", {"stage": "dev"})
    other = make_file(tmp_path / "other" / replaced.name, 9 * MIB, "other")
    a.publish(other.path, replace="true")
    b.api("POST", f"/transfers/{transfer(b, cancelled)['id']}/cancel")
    eventually(lambda: b.presence(withdrawn.name) in {"withdrawn", ""}, 20, "the withdrawal is not known")
    eventually(lambda: b.presence(moved.name) == "not_admitted", 20, "the stage is not known")
    eventually(lambda: (b.package(replaced.name) or {})["sha256"] == other.sha256, 20, "not replaced")
    eventually(lambda: b.presence(cancelled.name) == "waiting", 20, "it is not cancelled")
    # If it was its turn just then, the chunk that is under way is read to its end.
    eventually(lambda: transfer(b, cancelled)["state"] == "cancelled", 20, "it goes on")
    a.publish(withdrawn.path)
    a.api("PATCH", f"/packages/{moved.name}", {"stage": "prod"})
    a.publish(replaced.path, replace="true")
    b.api("POST", f"/transfers/{transfer(b, cancelled)['id']}/retry")
    any_network.proxies["a"].limit(0)
    wait_all(b, files)


def transfer(node: NodeProcess, file: File) -> dict[str, Any]:
    """The last changed transfer of a file's package."""
    package = node.package(file.name) or {}
    found: dict[str, Any] = node.api("GET", f"/transfers?package={package['id']}")["items"][0]
    return found


def test_a_peer_that_leaves_and_comes_back(any_network: Network, tmp_path: Path) -> None:
    a, b, files = queue(any_network, tmp_path, 14, 9 * MIB)
    b.api("DELETE", f"/peers/{a.id}")
    eventually(
        lambda: all((b.package(file.name) or {})["presence"] in {"waiting", "held"} for file in files),
        20,
        "they are said to arrive from nobody",
    )
    any_network.proxies["a"].limit(0)
    b.join(a)
    wait_all(b, files)


def test_workers_beside_a_node_leave_nothing_behind(any_network: Network, tmp_path: Path) -> None:
    a = any_network.node("a", **SETTINGS)
    b = any_network.node("b", WORKER_EMBEDDED="false", **SETTINGS)
    with workers(b, 2):
        b.join(a)
        files = [make_file(tmp_path / f"Tool-{n:02}.pkg", MIB if n % 2 else 9 * MIB, n) for n in range(24)]
        for file in files:
            a.publish(file.path)
        wait_all(b, files)


def test_a_bad_file_does_not_hold_up_the_others(any_network: Network, tmp_path: Path) -> None:
    files = [make_file(tmp_path / f"Tool-{n:02}.pkg", 2 * MIB, n) for n in range(12)]
    a = any_network.node("a", **SETTINGS)
    for file in files:
        a.publish(file.path)
    rotten = files[3]
    blob = a.layout.blob(rotten.sha256)
    data = bytearray(blob.read_bytes())
    data[MIB + 5] ^= 1
    blob.write_bytes(data)
    b = any_network.node("b", **SETTINGS)
    b.join(a)
    wait_all_but(b, files, rotten)
    package = eventually(
        lambda: (p := b.package(rotten.name)) and p["presence"] != "held" and p["reason"] and p,
        20,
        "nothing is said of the bad one",
    )
    assert "rrive" not in package["reason"]
    assert b.peer(a)["quarantined_until"] is None


def wait_all_but(node: NodeProcess, files: list[File], bad: File) -> None:
    """Wait until all but one are served."""
    good = [file for file in files if file is not bad]

    def missing() -> list[str]:
        return [file.name for file in good if not node.holds(file.name, file.sha256)]

    eventually(lambda: not missing(), 60, lambda: f"{node.name} lacks {missing()}\n{node.tail()}")


@pytest.mark.parametrize(
    "lie",
    [page, doubled, lambda: flip_bit(times=8)],
    ids=["a page", "doubled bytes", "flipped bits"],
)
def test_a_proxy_that_lies_for_a_while(network: Network, tmp_path: Path, lie: Callable[[], Meddler]) -> None:
    files = [make_file(tmp_path / f"Tool-{n:02}.pkg", 2 * MIB, n) for n in range(24)]
    a = network.node("a", proxied=True, **SETTINGS)
    for file in files:
        a.publish(file.path)
    b = network.node("b", **SETTINGS)
    network.proxies["a"].limit(SLOW)
    b.join(a)
    b.wait_holds(files[0].name, files[0].sha256)
    network.proxies["a"].meddle = lie()
    network.proxies["a"].limit(0)
    asked = len(network.proxies["a"].requests)
    eventually(lambda: len(network.proxies["a"].requests) > asked + 6, 20, "nobody asks")
    network.proxies["a"].meddle = lambda _request, _reply: None
    wait_all(b, files, 90)
    if lie is page:
        assert b.peer(a)["strikes"] == 0, "a page of a proxy is no fault of the peer"


def test_every_job_that_is_lost_is_made_again(network: Network, tmp_path: Path) -> None:
    """A package whose job a person cancels, or a bug drops, has another one within a reconciliation."""
    a, b, files = queue(network, tmp_path, 6, 9 * MIB)
    b.stop()
    import sqlite3

    with contextlib.closing(sqlite3.connect(b.data / "ods.sqlite3")) as database:
        gone = database.execute(
            "DELETE FROM jobs WHERE name LIKE 'transfer.%' AND state IN ('todo', 'doing')"
        ).rowcount
        database.commit()
    assert gone
    network.proxies["a"].limit(0)
    b.start()
    wait_all(b, files)
    assert a.running
