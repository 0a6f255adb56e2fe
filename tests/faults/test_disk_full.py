"""The disk is full: what cannot be kept is refused with 507, everything else goes on."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
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
    assert b.api("GET", f"/packages/{large.name}")["retry_at"], "it is not said when it is tried again"
    filler.unlink()
    b.wait_holds(large.name, large.sha256)
    assert b.sha1(large.name) == large.sha1


def test_the_floor_of_free_space_is_kept(network: Network, tmp_path: Path, small_disk: Path) -> None:
    a = network.node("a", DATA_DIR=str(small_disk / "data"), TRANSFERS_MIN_FREE=str(30 * MIB))
    answer = a.upload(make_file(tmp_path / "x.pkg", 40 * MIB).path)
    assert answer.status == 507
    assert a.upload(make_file(tmp_path / "y.pkg", 20 * MIB).path).status == 201
    assert os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize >= 30 * MIB


def test_earlier_versions_make_room_for_what_comes(
    network: Network, tmp_path: Path, small_disk: Path
) -> None:
    a = network.node("a", DATA_DIR=str(small_disk / "data"))
    a.data = small_disk / "data"
    files = [make_file(tmp_path / str(number) / "X.pkg", 16 * MIB, number) for number in range(3)]
    for file in files:
        a.publish(file.path, replace="true")
    assert len(a.files("blobs")) == 3
    too_large = make_file(tmp_path / "large.pkg", 60 * MIB, 4)
    assert a.upload(too_large.path).status == 507
    assert len(a.files("blobs")) == 3, "what would not have helped was deleted"
    a.publish(make_file(tmp_path / "more.pkg", 20 * MIB, 5).path)
    kept = [each["sha256"] for each in a.api("GET", "/packages/X.pkg/versions")["items"]]
    assert kept == [files[2].sha256, files[1].sha256], "the oldest goes first"

    # Bytes that come from a peer have room made for them as well.
    b = network.node("b")
    a.join(b)
    other = make_file(tmp_path / "other.pkg", 20 * MIB, 6)
    b.publish(other.path)
    a.wait_holds(other.name, other.sha256)
    assert len(a.files("blobs")) == 3
    assert [each["current"] for each in a.api("GET", "/packages/X.pkg/versions")["items"]] == [True]


@contextlib.contextmanager
def full(disk: Path) -> Iterator[None]:
    """No byte is free."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as other:
        for step in (MIB, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    other.write(bytes(step))
    try:
        yield
    finally:
        filler.unlink(missing_ok=True)


def troubles(node: NodeProcess) -> list[str]:
    """Lines of the log that are warnings or worse, but for those of single requests."""
    lines = node.log_text().splitlines()
    assert "Traceback" not in node.log_text(), node.tail(40)
    return [
        line for line in lines if '"level": "' in line and '"info"' not in line and '"request"' not in line
    ]


def is_red_and_serves(node: NodeProcess, name: str, sha256: str) -> None:
    answer = node.request("GET", "/health/ready", anonymous=True)
    assert answer.status == 503
    assert "full" in str(answer.json()["checks"].get("disk")), answer.body
    assert node.status("/health/live") == 200
    assert node.holds(name, sha256)


@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_a_start_on_a_full_disk_serves_and_goes_on_by_itself(
    network: Network, tmp_path: Path, small_disk: Path, end: str
) -> None:
    node = network.node("a", DATA_DIR=str(small_disk / "data"))
    file = make_file(tmp_path / "Thing.pkg", 5 * MIB)
    node.publish(file.path)
    node.stop() if end == "stopped" else node.kill9()
    with full(small_disk):
        node.start(wait=False)
        eventually(lambda: node.status("/health/live") == 200, 40, node.tail)
        eventually(lambda: is_red_and_serves(node, file.name, file.sha256) is None, 40, node.tail)
        assert node.sha1(file.name) == file.sha1
        assert node.upload(make_file(tmp_path / "x.pkg", MIB).path).status in {503, 507}
        pid = node.pid
    node.wait_ready()
    assert node.pid == pid
    node.publish(make_file(tmp_path / "later.pkg", MIB).path)
    assert len(troubles(node)) < 15, "\n".join(troubles(node))


def test_a_first_start_on_a_full_disk_waits_for_room(network: Network, small_disk: Path) -> None:
    node = network.node("a", start=False, DATA_DIR=str(small_disk / "data"), HTTP_TLS_SELF_SIGNED="false")
    with full(small_disk):
        node.start(wait=False)
        eventually(lambda: node.status("/health/ready") == 503, 40, node.tail)
        eventually(lambda: list(node.lines("start_waits")), 40, node.tail)
        assert node.running
    node.wait_ready()
    assert node.restart().running
    troubles(node)


def test_a_disk_that_fills_while_the_node_runs(network: Network, tmp_path: Path, small_disk: Path) -> None:
    a = network.node("a")
    b = network.node("b", DATA_DIR=str(small_disk / "data"))
    b.log = small_disk / "log"  # the log is on the disk that fills
    b.restart()
    b.join(a)
    file = make_file(tmp_path / "Thing.pkg", 5 * MIB, 1)
    b.publish(file.path)
    client = tus.TusClient(f"{b.url}/api/v1/uploads", headers={"Authorization": AUTHORIZATION})
    middle = make_file(tmp_path / "middle.pkg", 10 * MIB, 3)
    with middle.path.open("rb") as stream:
        upload = client.uploader(file_stream=stream, chunk_size=4 * MIB, metadata={"filename": middle.name})
        upload.upload_chunk()
        with full(small_disk):
            eventually(lambda: is_red_and_serves(b, file.name, file.sha256) is None, 30, b.tail)
            late = make_file(tmp_path / "late.pkg", 2 * MIB, 2)
            assert b.upload(late.path).status == 507
            a.publish(late.path)  # b has to fetch it, and cannot
            headers = {
                "Tus-Resumable": "1.0.0",
                "Upload-Offset": str(upload.offset),
                "Content-Type": "application/offset+octet-stream",
            }
            answer = b.request("PATCH", upload.url.removeprefix(b.url), bytes(4 * MIB), headers)
            assert answer.status in {503, 507}
            assert b.api("GET", "/packages")["items"]
            stats = [
                b.request("GET", path).status
                for path in ("/api/v1/system", "/api/v1/events", "/api/v1/about")
            ]
            assert stats == [200] * 3
            assert b.request("DELETE", f"/api/v1/packages/{file.name}").status in {503, 507}
        b.wait_ready()
    b.wait_holds(late.name, late.sha256)
    with middle.path.open("rb") as stream:
        client.uploader(file_stream=stream, url=upload.url, chunk_size=4 * MIB).upload()
    assert b.sha1(middle.name) == middle.sha1
    assert len(troubles(b)) < 25, "\n".join(troubles(b))
