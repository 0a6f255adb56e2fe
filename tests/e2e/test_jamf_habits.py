"""What a Jamf Pro server does at times: old lists, lists that lack a record, refusals once. Nothing is lost by it.

Nothing irreversible follows from one answer, and bytes of an earlier version never come back by themselves.
"""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builders import MIB, make_file
from tests.fakes.jamf import FakeJamf
from tests.harness import Network, eventually
from tests.harness.jamf import connect, digest_of, server_of
from tests.harness.jamf_schema import check_requests
from tests.harness.node import NodeProcess


@pytest.fixture
def jamf() -> Iterator[FakeJamf]:
    with FakeJamf(packages=30) as server:
        yield server
        check_requests(server.control("requests"))


def polled(node: NodeProcess, times: int = 1) -> None:
    """Wait for the end of so many further listings."""
    for _ in range(times):
        before = server_of(node)["health"].get("last_poll_at")
        eventually(
            lambda before=before: server_of(node)["health"].get("last_poll_at") != before,
            60,
            lambda: node.tail(30),
        )


def digest(data: bytes) -> str:
    return hashlib.sha3_512(data).hexdigest()


def rows(node: NodeProcess, direction: str = "in") -> dict[str, str]:
    """The states of records, by file name."""
    found = node.api("GET", f"/mdm/servers/{server_of(node)['id']}/packages?direction={direction}&limit=500")
    return {row["file_name"]: row["state"] for row in found["items"]}


def named(jamf: FakeJamf, file_name: str) -> list[dict[str, Any]]:
    """All records of a file name."""
    return [record for record in jamf.packages() if record["fileName"] == file_name]


def test_a_replacement_soon_after_an_upload_is_not_undone(
    network: Network, jamf: FakeJamf, tmp_path: Path
) -> None:
    a = network.node("a")
    jamf.faults(pending_s=4.0)
    connect(a, jamf, mirror={"upload": True})
    first, second = (make_file(tmp_path / f"{n}.pkg", 2 * MIB + n, seed=n) for n in (1, 2))
    a.upload(first.path, "Tool.pkg")
    eventually(
        lambda: (jamf.package("Tool.pkg") or {}).get("cloudTransferStatus") == "PENDING",
        60,
        lambda: a.tail(30),
    )
    assert a.upload(second.path, "Tool.pkg", replace="true").status == 200
    new = digest(second.path.read_bytes())

    def uploaded() -> bool:
        assert digest_of(a, "Tool.pkg") == new, "the bytes of the first upload came back"
        record = jamf.package("Tool.pkg") or {}
        return (record["cloudTransferStatus"], record["hashValue"]) == ("READY", new)

    eventually(uploaded, 90, lambda: a.tail(30))
    polled(a, 2)
    assert digest_of(a, "Tool.pkg") == new
    assert not a.events("mdm.pulled")
    eventually(
        lambda: rows(a, "out").get("Tool.pkg") == "mirrored", 90, lambda: f"{rows(a, 'out')}\n{a.tail(30)}"
    )


def test_an_admin_who_goes_back_to_earlier_bytes_is_obeyed(network: Network, jamf: FakeJamf) -> None:
    a = network.node("a")
    connect(a, jamf)
    eventually(lambda: server_of(a)["health"].get("listed"), 60)
    first = jamf.upload("Tool.pkg", MIB, seed=1)
    eventually(lambda: digest_of(a, "Tool.pkg") == first["sha3"], 60, lambda: a.tail(30))
    second = jamf.upload("Tool.pkg", MIB, seed=2)
    eventually(lambda: digest_of(a, "Tool.pkg") == second["sha3"], 60, lambda: a.tail(30))
    polled(a, 2)
    jamf.faults(stale_lists=1)
    polled(a, 1)
    jamf.upload("Tool.pkg", MIB, seed=1)
    eventually(lambda: digest_of(a, "Tool.pkg") == first["sha3"], 120, lambda: a.tail(30))
    polled(a, 2)
    assert digest_of(a, "Tool.pkg") == first["sha3"]
    assert len(a.events("mdm.pulled")) == 3


def test_a_list_that_is_old_changes_nothing(network: Network, jamf: FakeJamf) -> None:
    a = network.node("a")
    connect(a, jamf)
    eventually(lambda: server_of(a)["health"].get("listed"), 60)
    jamf.upload("Tool.pkg", MIB, seed=1)
    eventually(lambda: rows(a).get("Tool.pkg") == "pulled", 60)
    polled(a)
    jamf.control("freeze")
    second = jamf.upload("Tool.pkg", MIB, seed=2)
    eventually(lambda: digest_of(a, "Tool.pkg") == second["sha3"], 60, lambda: a.tail(30))
    polled(a, 2)
    jamf.control("show_frozen", lists=2)
    polled(a, 4)
    assert digest_of(a, "Tool.pkg") == second["sha3"]
    assert len(a.events("mdm.pulled")) == 2


@pytest.mark.parametrize("status", [403, 404])
def test_one_refusal_loses_no_ability_for_longer_than_a_minute(
    network: Network, jamf: FakeJamf, status: int
) -> None:
    a = network.node("a")
    connect(a, jamf, intake={"poll_s": 3600})
    eventually(lambda: server_of(a)["health"].get("listed"), 60)
    jamf.faults(refuse={"/api/v1/jcds/files": [status, 1]})
    a.api("POST", f"/mdm/servers/{server_of(a)['id']}/sync", {})
    server = eventually(
        lambda: (found := server_of(a))["reason"] and found, 30, lambda: f"nothing is said\n{a.tail(30)}"
    )
    assert "cannot be downloaded" in server["reason"]
    assert server["state"] == ("attention" if status == 403 else "connected")
    made = jamf.upload("In.pkg", 1000)
    eventually(lambda: digest_of(a, "In.pkg") == made["sha3"], 60, lambda: a.tail(30))
    server = eventually(lambda: (found := server_of(a))["reason"] == "" and found, 30)
    assert server["state"] == "connected"


def test_one_list_that_lacks_a_record_undoes_neither_a_conflict_nor_a_withdrawal(
    network: Network, jamf: FakeJamf, tmp_path: Path
) -> None:
    a = network.node("a")
    names = ["Conflict.pkg", "Gone.pkg"]
    files = {name: make_file(tmp_path / name, 1000 + len(name), seed=len(name)) for name in names}
    for name, file in files.items():
        a.publish(file.path)
        jamf.upload_bytes(name, file.path.read_bytes() if name == "Gone.pkg" else b"other bytes")
    ours = digest_of(a, "Conflict.pkg")
    connect(a, jamf)
    eventually(lambda: rows(a).get("Conflict.pkg") == "conflict", 60, lambda: a.tail(30))
    eventually(lambda: rows(a).get("Gone.pkg") == "pulled", 60, lambda: a.tail(30))
    a.api("DELETE", "/packages/Gone.pkg")
    polled(a, 2)
    count = len(jamf.packages())
    jamf.faults(missing_once=names)
    polled(a, 4)
    assert rows(a)["Conflict.pkg"] == "conflict"
    assert digest_of(a, "Conflict.pkg") == ours
    assert digest_of(a, "Gone.pkg") == "", "it was withdrawn"
    assert not a.events("mdm.pulled")
    assert len(jamf.packages()) == count, "nor was a second record created"


def test_a_withdrawal_is_carried_out_although_one_list_lacks_the_record(
    network: Network, jamf: FakeJamf, tmp_path: Path
) -> None:
    a = network.node("a")
    connect(a, jamf, mirror={"withdrawal": "delete"})
    a.publish(make_file(tmp_path / "Tool.pkg", 1000).path)
    eventually(lambda: named(jamf, "Tool.pkg"), 60, lambda: a.tail(30))
    polled(a)
    jamf.faults(missing_once=["Tool.pkg"])
    a.api("DELETE", "/packages/Tool.pkg")
    eventually(lambda: not named(jamf, "Tool.pkg"), 60, lambda: a.tail(30))


@pytest.mark.parametrize("word", ["DUPLICATE_FIELD", "409", "A package with this name already exists"])
def test_lists_and_look_ups_that_are_empty_for_a_while_create_no_record(
    network: Network, jamf: FakeJamf, tmp_path: Path, word: str
) -> None:
    a = network.node("a")
    for number in range(6):
        a.publish(make_file(tmp_path / f"Tool-{number}.pkg", 1000 + number, seed=number).path)
    id = connect(a, jamf)
    eventually(lambda: len(jamf.packages()) == 36, 60, lambda: a.tail(30))
    polled(a)
    jamf.faults(duplicate=word)
    jamf.control("empty_for", seconds=14)
    for number in range(6):  # something is to be written
        a.api("PATCH", f"/packages/Tool-{number}.pkg", {"notes": "changed"})
    polled(a, 4)
    assert len(jamf.packages()) == 36
    if word == "DUPLICATE_FIELD":  # the same, of a bridge that remembers nothing
        a.api("DELETE", f"/mdm/servers/{id}")
        jamf.control("empty_for", seconds=14)
        connect(a, jamf)
        polled(a, 4)
        assert len(jamf.packages()) == 36
    eventually(
        lambda: set(rows(a, "out").values()) == {"mirrored"}, 90, lambda: f"{rows(a, 'out')}\n{a.tail(30)}"
    )
    assert len(jamf.packages()) == 36


def test_a_list_that_counts_more_than_it_gives_is_none_and_a_clamped_page_is_not_the_last(
    network: Network, tmp_path: Path
) -> None:
    with FakeJamf(packages=1234) as jamf:
        jamf.faults(page_most=500)
        a = network.node("a")
        connect(a, jamf)
        server = eventually(
            lambda: (found := server_of(a))["health"].get("listed") and found, 60, lambda: a.tail(30)
        )
        assert server["health"]["packages"] == 1234
        a.publish(make_file(tmp_path / "Tool.pkg", 1000).path)
        eventually(lambda: named(jamf, "Tool.pkg"), 60, lambda: a.tail(30))
        jamf.faults(count_more=3)
        server = eventually(
            lambda: (found := server_of(a))["state"] == "unreachable" and found, 60, lambda: a.tail(30)
        )
        assert "listed 1235 of 1238 records" in server["reason"]
        jamf.faults(count_more=0)
        eventually(lambda: server_of(a)["state"] == "connected", 60, lambda: a.tail(30))
        assert len(jamf.packages()) == 1235


def test_a_bridge_that_was_restored_reads_its_peers_before_it_takes_what_jamf_has(
    network: Network, jamf: FakeJamf, tmp_path: Path
) -> None:
    a, b = network.chain("a", "b")
    connect(a, jamf)
    eventually(lambda: server_of(a)["health"].get("listed"), 60)
    first = jamf.upload("Tool.pkg", MIB, seed=1)
    for node in (a, b):
        eventually(lambda node=node: digest_of(node, "Tool.pkg") == first["sha3"], 60, lambda: a.tail(30))
    polled(a)
    a.stop()
    shutil.copytree(a.data, tmp_path / "backup")
    a.start()
    second = jamf.upload("Tool.pkg", MIB, seed=2)
    eventually(lambda: digest_of(b, "Tool.pkg") == second["sha3"], 60, lambda: a.tail(30))
    third = make_file(tmp_path / "third.pkg", 2 * MIB, seed=3)
    assert b.upload(third.path, "Tool.pkg", replace="true").status == 200
    new = digest(third.path.read_bytes())
    eventually(lambda: digest_of(a, "Tool.pkg") == new, 60, lambda: a.tail(30))
    a.stop()
    shutil.rmtree(a.data)
    shutil.copytree(tmp_path / "backup", a.data)
    a.start()
    eventually(lambda: digest_of(a, "Tool.pkg") == new, 60, lambda: a.tail(30))
    polled(a, 3)
    assert [digest_of(node, "Tool.pkg") for node in (a, b)] == [new, new], "what Jamf has is older than it"
