"""The disk is full: what cannot be kept is refused with 507, everything else goes on."""

import os
from pathlib import Path

from tusclient import client as tus

from tests.builders import MIB, make_file
from tests.harness import Network, eventually
from tests.harness.node import AUTHORIZATION, NodeProcess


def test_uploads_and_transfers_stop_and_go_on_when_there_is_room(
    network: Network, tmp_path: Path, small_disk: Path
) -> None:
    a = network.node("a", DATA_DIR=str(small_disk / "data"))
    a.data = small_disk / "data"
    kept, large = (
        make_file(tmp_path / "kept.pkg", 20 * MIB, 1),
        make_file(tmp_path / "large.pkg", 50 * MIB, 2),
    )
    a.publish(kept.path)

    # What cannot fit is refused before its body; what is there is served.
    answer = a.upload(large.path)
    assert (answer.code, answer.status, answer.json()["code"]) == (0, 507, "storage_full")
    assert a.files("uploads") == []

    # An upload that fits when it begins and not when it goes on: what came is kept and continued later.
    client = tus.TusClient(f"{a.url}/api/v1/uploads", headers={"Authorization": AUTHORIZATION})
    middle = make_file(tmp_path / "middle.pkg", 30 * MIB, 3)
    with middle.path.open("rb") as stream:
        first = client.uploader(file_stream=stream, chunk_size=5 * MIB, metadata={"filename": middle.name})
        first.upload(stop_at=10 * MIB)
        filler = small_disk / "filler"
        with filler.open("wb") as other:
            os.posix_fallocate(
                other.fileno(), 0, os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize - MIB
            )
        offset = str(first.offset)
        headers = {
            "Tus-Resumable": "1.0.0",
            "Upload-Offset": offset,
            "Content-Type": "application/offset+octet-stream",
        }
        stream.seek(first.offset)
        full = a.request("PATCH", first.url.removeprefix(a.url), stream.read(5 * MIB), headers)
        assert (full.status, full.json()["code"]) == (507, "storage_full")
        assert a.sha1(kept.name) == kept.sha1
        assert a.status("/health/live") == 200
        left = a.api("GET", "/uploads")["items"]
        assert [item["filename"] for item in left] == [middle.name]
        assert left[0]["offset"] >= first.offset
        filler.unlink()
        second = client.uploader(file_stream=stream, chunk_size=5 * MIB, url=first.url)
        second.upload()
    assert a.sha1(middle.name) == middle.sha1


def test_a_transfer_that_does_not_fit_waits_for_room(
    network: Network, tmp_path: Path, small_disk: Path
) -> None:
    a = network.node("a")
    b = network.node("b", DATA_DIR=str(small_disk / "data"))
    b.join(a)
    small, large = (
        make_file(tmp_path / "small.pkg", 2 * MIB, 1),
        make_file(tmp_path / "large.pkg", 45 * MIB, 2),
    )
    filler = small_disk / "filler"
    with filler.open("wb") as other:
        os.posix_fallocate(other.fileno(), 0, 40 * MIB)
    a.publish(large.path)
    stalled = eventually(
        lambda: next(iter(b.api("GET", "/transfers?state=stalled")["items"]), None), 30, "it is not stalled"
    )
    assert "disk" in stalled["error"].lower()
    assert b.head(large.name).status == 503
    a.publish(small.path)
    b.wait_holds(small.name, small.sha256)  # everything else goes on

    def told_at(node: NodeProcess) -> str:
        replicas = node.api("GET", f"/packages/{large.name}")["replicas"]
        return next((item["reason"] for item in replicas if item["name"] == "b"), "")

    for node in (a, b):  # every node says why b has not got it
        eventually(lambda node=node: "disk" in told_at(node), 20, lambda node=node: told_at(node))
    tries = stalled["attempts"]
    eventually(lambda: b.api("GET", f"/transfers/{stalled['id']}")["attempts"] > tries + 1, 30)
    assert len(b.events("transfer.stalled")) == 1, "one trouble is told once, however often peers are asked"
    filler.unlink()
    b.api("POST", f"/transfers/{stalled['id']}/retry")
    b.wait_holds(large.name, large.sha256)
    assert b.sha1(large.name) == large.sha1


def test_the_floor_of_free_space_is_kept(network: Network, tmp_path: Path, small_disk: Path) -> None:
    a = network.node("a", DATA_DIR=str(small_disk / "data"), TRANSFERS_MIN_FREE=str(30 * MIB))
    answer = a.upload(make_file(tmp_path / "x.pkg", 40 * MIB).path)
    assert answer.status == 507
    assert a.upload(make_file(tmp_path / "y.pkg", 20 * MIB).path).status == 201
    assert os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize >= 30 * MIB
