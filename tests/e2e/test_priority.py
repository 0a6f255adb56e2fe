"""A transfer that a person puts first comes before those that waited longer."""

from pathlib import Path

from tests.builders import MIB, make_file
from tests.harness import Network, eventually
from tests.harness.command import ods


def test_what_is_put_first_arrives_first(network: Network, tmp_path: Path) -> None:
    a, b = network.node("a", proxied=True), network.node("b", WORKER_TRANSFER_SLOTS="1")
    network.proxies["a"].limit(MIB)  # a second: the first transfer lasts until its end is wanted
    files = [
        make_file(tmp_path / f"{name}.pkg", size * MIB, size)
        for name, size in (("Long", 24), ("Second", 10), ("Third", 9))
    ]
    b.join(a)
    a.publish(files[0].path)
    eventually(lambda: b.api("GET", "/transfers?state=fetching")["items"], 30, b.tail)
    for file in files[1:]:
        a.publish(file.path)
    waiting = eventually(
        lambda: len(found := b.api("GET", "/transfers?state=pending")["items"]) == 2 and found, 30, b.tail
    )
    third = next(one for one in waiting if one["filename"] == "Third.pkg")
    done = ods(b, "transfer", "first", third["id"])
    assert done.returncode == 0, done.stderr
    network.proxies["a"].limit(0)
    eventually(lambda: all(b.presence(file.path.name) == "held" for file in files), 60, b.tail)
    arrived = sorted(b.events("package.arrived"), key=lambda event: event["seq"])
    assert [event["data"]["filename"] for event in arrived] == ["Long.pkg", "Third.pkg", "Second.pkg"]
    (told,) = b.events("transfer.prioritized")
    assert told["actor"] == "admin"
    late = b.request("POST", f"/api/v1/transfers/{third['id']}/prioritize")
    assert (late.status, "waits" in late.json()["detail"]) == (409, True)
