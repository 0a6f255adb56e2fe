"""A Jamf Pro server and a network of nodes as one; the server is `tests.fakes.jamf`."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builders import MIB, make_file
from tests.conftest import BIG
from tests.fakes.jamf import FakeJamf
from tests.harness import Network, eventually
from tests.harness.jamf import connect, digest_of, server_of
from tests.harness.jamf_schema import check_requests
from tests.harness.node import NodeProcess


@pytest.fixture
def jamf() -> Iterator[FakeJamf]:
    with FakeJamf(packages=2500) as server:
        yield server
        check_requests(server.control("requests"))


def synced(node: NodeProcess) -> dict[str, Any]:
    """Wait for the first listing, and return the server."""
    return eventually(
        lambda: (found := server_of(node))["health"].get("listed") and found, 60, lambda: node.tail(30)
    )


def polled(node: NodeProcess) -> dict[str, Any]:
    """Wait for the end of the next listing, and return the server's health."""
    before = server_of(node)["health"].get("last_poll_at")
    return eventually(
        lambda: (found := server_of(node)["health"]).get("last_poll_at") != before and found,
        60,
        lambda: node.tail(30),
    )


@pytest.mark.parametrize("webhooks", [True, False], ids=["webhooks", "polls"])
def test_what_is_uploaded_in_jamf_is_on_every_node(network: Network, jamf: FakeJamf, webhooks: bool) -> None:
    a, b, c = network.chain("a", "b", "c")
    connect(a, jamf, webhooks=webhooks, intake={"poll_s": 3600 if webhooks else 5})
    synced(a)
    if webhooks:
        eventually(lambda: len(jamf.control("webhooks")) == 4, 30)
    jamf.faults(pending_s=1.0)
    made = jamf.upload("Firefox 134+#%.pkg", 5 * MIB + 17, seed=1)
    for node in (a, b, c):
        eventually(
            lambda node=node: digest_of(node, "Firefox 134+#%.pkg") == made["sha3"], 60, lambda: a.tail(30)
        )
    package = a.package("Firefox 134+#%.pkg") or {}
    assert package["hashes"]["sha3_512"] == made["sha3"]
    assert package["hashes"]["md5"] == made["md5"]
    assert package["uploaded_by"] == "mdm:Jamf"
    notes = eventually(lambda: jamf.control("history", id=made["id"]), 20)
    assert "verified" in notes[0]["note"]
    record = jamf.package("Firefox 134+#%.pkg")
    assert record is not None
    assert (record["cloudTransferStatus"], record["size"]) == ("READY", str(made["size"])), (
        "it was never written"
    )

    second = jamf.upload("Firefox 134+#%.pkg", 3 * MIB, seed=2)  # the same name with other bytes
    for node in (a, b, c):
        eventually(lambda node=node: digest_of(node, "Firefox 134+#%.pkg") == second["sha3"], 60)
    assert len(a.events("mdm.pulled")) == 2


def test_what_is_put_on_a_node_has_a_record_and_every_node_is_a_distribution_point(
    network: Network, jamf: FakeJamf, tmp_path: Path
) -> None:
    a, b, c = network.chain("a", "b", "c")
    connect(a, jamf)
    file = make_file(tmp_path / "Tool.pkg", 3 * MIB)
    c.publish(file.path)
    eventually(lambda: jamf.package("Tool.pkg"), 60, lambda: a.tail(30))
    record = jamf.package("Tool.pkg") or {}
    data = file.path.read_bytes()
    assert (record["hashType"], record["hashValue"]) == ("SHA3_512", hashlib.sha3_512(data).hexdigest())
    assert record["md5"] == hashlib.md5(data).hexdigest()
    points = eventually(lambda: len(found := jamf.control("points")) == 3 and found, 30)
    assert {point["name"] for point in points} == {"ODS - a", "ODS - b", "ODS - c"}
    assert {point["httpsPort"] for point in points} == {node.port for node in (a, b, c)}
    assert {point["backupDistributionPointId"] for point in points} == {"-2"}
    assert not any(point["principal"] for point in points)

    # What an admin changes by hand stays.
    jamf.control("edit_package", id=record["id"], notes="ours", priority=3, categoryId="1", info="by hand")
    jamf.control("edit_point", id=points[0]["id"], httpsContext="by/hand", workgroup="W")
    again = make_file(tmp_path / "Tool2.pkg", 2 * MIB, seed=9)
    replaced = c.upload(again.path, "Tool.pkg", replace="true")
    assert replaced.status == 200
    digest = hashlib.sha3_512(again.path.read_bytes()).hexdigest()
    record = eventually(
        lambda: (found := jamf.package("Tool.pkg") or {}).get("hashValue") == digest and found, 60
    )
    assert (record["notes"], record["priority"], record["categoryId"], record["info"]) == (
        "ours",
        3,
        "1",
        "by hand",
    )
    polled(a)
    kept = next(point for point in jamf.control("points") if point["id"] == points[0]["id"])
    assert (kept["httpsContext"], kept["workgroup"]) == ("by/hand", "W")
    assert len([one for one in jamf.packages() if one["fileName"] == "Tool.pkg"]) == 1


def test_a_cloud_file_arrives_over_expired_urls_and_lost_connections(
    network: Network, jamf: FakeJamf
) -> None:
    size = 1024 * MIB if BIG else 48 * MIB
    a = network.node("a")
    connect(a, jamf)
    synced(a)
    jamf.faults(drop_after=[size // 7, size // 9, size // 11], expire_after=[size // 3, size // 2])
    made = jamf.upload("Big.pkg", size, seed=5)
    eventually(lambda: a.presence("Big.pkg") == "held", 300, lambda: a.tail(30))
    assert digest_of(a, "Big.pkg") == made["sha3"]
    assert jamf.control("served")["Big.pkg"] == size, "no byte was sent twice"
    asked = [one for one in jamf.control("requests") if one["path"] == "/api/v1/jcds/files/Big.pkg"]
    assert len(asked) == 3, "the URL was asked for again when it had expired, and not otherwise"
    assert not any(one["authorization"] for one in jamf.control("requests") if "cloudfront" in one["path"])
    transfer = next(one for one in a.api("GET", "/transfers")["items"] if one["filename"] == "Big.pkg")
    assert (transfer["state"], transfer["bytes_done"]) == ("done", size)
    assert [source["name"] for source in transfer["sources"]] == ["Jamf"]
    assert "Signature=" not in a.log_text()


def test_a_bridge_that_is_killed_ten_times_takes_everything_once(network: Network, jamf: FakeJamf) -> None:
    a = network.node("a")
    made = [jamf.upload(f"Kill-{number:02d}.pkg", 2 * MIB, seed=number) for number in range(50)]
    jamf.faults(serve_rate=20 * MIB)
    connect(a, jamf)
    for round_ in range(10):
        wanted = 4 * (round_ + 1)
        eventually(
            lambda wanted=wanted: len(a.api("GET", "/packages?limit=500")["items"]) >= wanted,
            60, lambda: a.tail(30),
        )  # fmt: skip
        a.kill9()
        a.start()
    eventually(lambda: len(a.api("GET", "/packages?limit=500")["items"]) == 50, 120, lambda: a.tail(30))
    for number, one in enumerate(made):
        assert digest_of(a, f"Kill-{number:02d}.pkg") == one["sha3"]
    published = [event["subject"] for event in a.events("package.published")]
    assert len(published) == len(set(published)) == 50, "each arrived once"
    assert not a.events("package.replaced")
    assert len(jamf.packages()) == 2550, "no record was made"


def test_a_bridge_that_is_killed_makes_no_record_twice(
    network: Network, jamf: FakeJamf, tmp_path: Path
) -> None:
    a = network.node("a")
    for number in range(20):
        a.publish(make_file(tmp_path / f"Out-{number:02d}.pkg", 1000 + number, seed=number).path)
    jamf.faults(latency_s=0.05)
    connect(a, jamf)
    for round_ in range(5):
        eventually(
            lambda wanted=round_ * 3 + 1: len(jamf.packages()) >= 2500 + wanted, 60, lambda: a.tail(30)
        )
        a.kill9()
        a.start()
    eventually(lambda: len(jamf.packages()) == 2520, 90, lambda: a.tail(30))
    polled(a)
    names = [record["fileName"] for record in jamf.packages()]
    assert len(names) == len(set(names)) == 2520
    assert len(jamf.control("points")) == 1


def test_a_flood_of_webhooks_is_one_sync(
    network: Network, jamf: FakeJamf, capsys: pytest.CaptureFixture[str]
) -> None:
    a = network.node("a")
    connect(a, jamf, webhooks=True, intake={"poll_s": 3600}, points={"enabled": False})
    synced(a)
    eventually(lambda: len(jamf.control("webhooks")) == 4, 30)
    wait_for_quiet(jamf)
    count = 10_000 if BIG else 2_000
    before, memory = jamf.control("requests", clear=True), a.rss_peak()
    assert before
    event = {
        "operationSuccessful": True, "restAPIOperationType": "PUT", "objectTypeName": "Package",
        "objectName": "Firefox", "authorizedUsername": "jane.doe",
    }  # fmt: skip
    results = jamf.control("fire", event="RestAPIOperation", data=event, count=count, senders=8)
    # The sender gives up after two seconds, as Jamf Pro does; how long the node took, it says itself.
    assert [result for result in results if result.get("status") != 202] == []
    slowest = max(line["ms"] for line in a.lines("request") if line["path"].startswith("/hooks/"))
    assert slowest < 1000
    grown = a.rss_peak() - memory
    seconds = max(result["at"] for result in results) - min(result["at"] for result in results)
    lists = [
        one
        for one in jamf.control("requests")
        if one["path"] == "/api/v1/packages" and "page=0" in one["query"]
    ]
    with capsys.disabled():
        print(
            f"\n{count} deliveries in {seconds:.1f} s, slowest {slowest:.0f} ms, {len(lists)} syncs, "
            f"{grown / MIB:.1f} MiB more"
        )
    assert len(lists) <= 1 + seconds / 60, "hints are gathered"
    eventually(
        lambda: [one for one in jamf.control("requests") if one["path"] == "/api/v1/packages"],
        60,
        "and one sync follows",
    )
    assert grown < 64 * MIB
    health = eventually(
        lambda: (found := server_of(a)["health"]).get("hooks_received", 0) >= count and found, 20
    )
    assert health["last_hook_event"] == "RestAPIOperation"


def test_our_own_calls_make_no_loop(network: Network, jamf: FakeJamf, tmp_path: Path) -> None:
    a = network.node("a")
    connect(a, jamf, webhooks=True, intake={"poll_s": 3600})
    synced(a)
    eventually(lambda: len(jamf.control("webhooks")) == 4, 30)
    a.publish(make_file(tmp_path / "Loop.pkg", 5000).path)
    eventually(lambda: jamf.package("Loop.pkg"), 60)
    eventually(lambda: server_of(a)["health"].get("hooks_own", 0) >= 1, 20)
    settled = len(jamf.control("requests"))
    wait_for_quiet(jamf)
    assert len(jamf.control("requests")) - settled < 12


def wait_for_quiet(jamf: FakeJamf) -> None:
    """Until no request came for three seconds."""
    import time

    last, since = len(jamf.control("requests")), time.monotonic()

    def quiet() -> bool:
        nonlocal last, since
        now = len(jamf.control("requests"))
        if now != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since > 3

    eventually(quiet, 60, "it never comes to rest")


def test_unchanged_packages_cost_few_requests(network: Network, capsys: pytest.CaptureFixture[str]) -> None:
    with FakeJamf(packages=5000) as jamf:
        a = network.node("a")
        connect(a, jamf)
        synced(a)
        polled(a)
        jamf.control("requests", clear=True)
        health = polled(a)
        with capsys.disabled():
            print(f"\nrequests of a poll with 5,000 unchanged packages: {health['requests']}")
        assert health["requests"] <= 5
        assert {one["method"] for one in jamf.control("requests")} <= {"GET", "POST"}


def test_wrong_bytes_are_never_published(network: Network, jamf: FakeJamf) -> None:
    a = network.node("a")
    connect(a, jamf)
    synced(a)
    made = jamf.upload("Bad.pkg", MIB, seed=1, corrupt=True)
    eventually(lambda: a.events("mdm.quarantined"), 60, lambda: a.tail(30))
    assert a.package("Bad.pkg") is None
    rows = a.api("GET", f"/mdm/servers/{server_of(a)['id']}/packages?state=quarantined")["items"]
    assert [row["file_name"] for row in rows] == ["Bad.pkg"]
    assert made["sha3"] in rows[0]["error"]
    good = jamf.upload("Bad.pkg", MIB, seed=2)
    eventually(lambda: digest_of(a, "Bad.pkg") == good["sha3"], 60)


def test_a_missing_privilege_is_named_and_stops_nothing_else(
    network: Network, jamf: FakeJamf, tmp_path: Path
) -> None:
    a = network.node("a")
    jamf.control("privileges", without=["Create Packages", "Read Distribution Points"])
    id = connect(a, jamf)
    a.publish(make_file(tmp_path / "Out.pkg", 1000).path)
    server = eventually(
        lambda: (found := server_of(a))["state"] == "attention" and found, 60, lambda: a.tail(30)
    )
    assert "Create Packages" in server["reason"] or "Read Distribution Points" in server["reason"]
    lines = {line["what"]: line for line in a.api("POST", f"/mdm/servers/{id}/check", {})["lines"]}
    assert lines["Package records: create"]["privilege"] == "Create Packages"
    made = jamf.upload("In.pkg", 1000)
    eventually(lambda: digest_of(a, "In.pkg") == made["sha3"], 60)
    jamf.control("privileges", without=[])
    eventually(
        lambda: jamf.package("Out.pkg") and server_of(a)["state"] == "connected", 60, lambda: a.tail(30)
    )


def test_a_secret_that_was_rotated(network: Network, jamf: FakeJamf) -> None:
    a = network.node("a")
    id = connect(a, jamf)
    synced(a)
    jamf.control("secret", client_secret="another secret for tests")
    server = eventually(lambda: (found := server_of(a))["state"] == "attention" and found, 60)
    assert "client_secret" in server["reason"]
    a.api("PATCH", f"/mdm/servers/{id}", {"settings": {"client_secret": "another secret for tests"}})
    eventually(
        lambda: server_of(a)["state"] == "connected" and server_of(a)["health"].get("last_poll_at"), 60
    )
    assert "another secret" not in a.log_text()


def test_jamf_without_downloads_goes_on(network: Network, jamf: FakeJamf, tmp_path: Path) -> None:
    jamf.faults(jcds_gone=True)
    a = network.node("a")
    connect(a, jamf)
    jamf.upload("In.pkg", 1000)
    a.publish(make_file(tmp_path / "Out.pkg", 1000).path)
    eventually(lambda: jamf.package("Out.pkg"), 60, lambda: a.tail(30))
    server = synced(a)
    assert any("cannot be downloaded" in note for note in server["health"]["notes"])
    assert a.package("In.pkg") is None
    assert not a.events("transfer.failed")


@pytest.mark.parametrize(("version", "kind"), [("11.20.0", "SHA_512"), ("11.14.1", "SHA_512")])
def test_older_versions(network: Network, tmp_path: Path, version: str, kind: str) -> None:
    with FakeJamf(version=version, packages=3) as jamf:
        a = network.node("a")
        connect(a, jamf)
        file = make_file(tmp_path / "Old.pkg", 1000)
        a.publish(file.path)
        record = eventually(lambda: jamf.package("Old.pkg"), 60, lambda: a.tail(30))
        assert (record["hashType"], record["hashValue"]) == (
            kind,
            hashlib.sha512(file.path.read_bytes()).hexdigest(),
        )
        points = eventually(lambda: jamf.control("points"), 30, lambda: a.tail(30))
        assert [point["name"] for point in points] == ["ODS - a"]


def test_a_busy_jamf_is_waited_for(network: Network, jamf: FakeJamf) -> None:
    a = network.node("a")
    jamf.faults(busy=3, fail=0, refuse_tokens=1)
    connect(a, jamf)
    synced(a)
    assert server_of(a)["state"] == "connected"
    jamf.faults(login_page=True)
    server = eventually(lambda: (found := server_of(a))["state"] == "attention" and found, 60)
    assert "web page" in server["reason"]


def test_bytes_are_uploaded_to_the_cloud_when_that_is_wanted(
    network: Network, jamf: FakeJamf, tmp_path: Path
) -> None:
    a = network.node("a")
    jamf.faults(pending_s=1.0)
    connect(a, jamf, mirror={"upload": True})
    file = make_file(tmp_path / "Up.pkg", 2 * MIB + 5)
    a.publish(file.path)
    digest = hashlib.sha3_512(file.path.read_bytes()).hexdigest()
    record = eventually(
        lambda: (found := jamf.package("Up.pkg") or {}).get("cloudTransferStatus") == "READY" and found,
        90,
        lambda: a.tail(30),
    )
    assert (record["hashValue"], record["size"]) == (digest, str(file.size))

    def mirrored() -> bool:
        rows = a.api("GET", f"/mdm/servers/{server_of(a)['id']}/packages?direction=out")["items"]
        return [row["state"] for row in rows] == ["mirrored"]

    eventually(mirrored, 60, lambda: a.tail(30))
    assert not a.events("mdm.pulled"), "our own bytes are not taken in"
    assert "Up.pkg" not in jamf.control("served")


@pytest.mark.parametrize("policy", ["leave", "mark", "delete"])
def test_withdrawals(network: Network, jamf: FakeJamf, tmp_path: Path, policy: str) -> None:
    a = network.node("a")
    jamf.control("edit_package", id=jamf.packages()[0]["id"], fileName="Theirs.pkg")
    connect(a, jamf, mirror={"withdrawal": policy})
    for name in ("Ours.pkg", "Theirs.pkg"):
        a.publish(make_file(tmp_path / name, 1000).path)
        eventually(lambda name=name: (jamf.package(name) or {}).get("hashValue"), 60, lambda: a.tail(30))
        a.api("DELETE", f"/packages/{name}")
    polled(a)
    polled(a)
    assert jamf.package("Theirs.pkg") is not None, "it was there before us"
    assert (jamf.package("Ours.pkg") is None) == (policy == "delete")
    if policy == "mark":
        assert "Withdrawn" in (jamf.package("Ours.pkg") or {})["notes"]


@pytest.mark.parametrize(("header", "basic", "way"), [(False, True, "basic"), (False, False, "path")])
def test_webhooks_are_proven_by_what_the_server_keeps(
    network: Network, jamf: FakeJamf, header: bool, basic: bool, way: str
) -> None:
    a = network.node("a")
    jamf.faults(header_auth=header, basic_auth=basic)
    connect(a, jamf, webhooks=True, intake={"poll_s": 3600})
    kept = eventually(lambda: server_of(a)["health"].get("webhooks"), 60, lambda: a.tail(30))
    assert {hook["authentication"] for hook in kept} == {way}
    made = jamf.upload("Hinted.pkg", 1000)
    eventually(lambda: digest_of(a, "Hinted.pkg") == made["sha3"], 60, lambda: a.tail(30))
    secret = a.api("GET", "/mdm/servers")["items"][0]["hook_secret"]
    assert set(secret) == {"*"}
