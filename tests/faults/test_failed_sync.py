"""The disk answers one sync of a file with an error, once, as Linux does: the file is not published from that."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tusclient import client as tus

from tests.builders import MIB, make_file
from tests.fakes.mongod import Mongod
from tests.harness import Network, NodeProcess, eventually
from tests.harness.node import AUTHORIZATION

from .test_crash_points import attached


@contextlib.contextmanager
def sync_fails(strace: str, node: NodeProcess, path: Path | None = None) -> Iterator[Path]:
    """Let the next fdatasync of a running node fail, or the next one of a file; yields strace's log.

    strace counts for each thread: leave the block when one has failed.
    """
    log = node.directory / "strace"
    command = [strace, "-f", "-qq", "-o", str(log), "-e", "trace=fdatasync"]
    command += ["-e", "inject=fdatasync:error=EIO:when=1", *(["-P", str(path)] if path else [])]
    with attached([*command, "-p", str(node.pid)], node):
        yield log


def injected(log: Path) -> int:
    """How many syncs failed."""
    return log.read_text().count("(INJECTED)") if log.exists() else 0


@pytest.fixture
def strace(need: Callable[[str], str]) -> str:
    return need("strace")


def test_a_transfer_begins_again(network: Network, tmp_path: Path, strace: str) -> None:
    a, b = network.chain("a", "b")
    b.stop()
    file = make_file(tmp_path / "X.pkg", 12 * MIB)
    package = a.publish(file.path)["id"]
    b.start(wait=False)
    partial = b.layout.partial(f"{package}-{file.sha256[:16]}")
    with sync_fails(strace, b, partial) as log:
        eventually(lambda: injected(log) == 1, 60, b.tail)
    b.wait_ready()
    b.wait_holds(file.name, file.sha256)
    assert b.sha1(file.name) == file.sha1
    assert b.metric("ods_fetched_bytes_total") == 2 * file.size, "what was not kept was believed"
    assert b.files("partial") == []
    assert "Traceback" not in b.log_text()


@pytest.mark.mongo
def test_a_put_is_answered_503_and_can_be_sent_again(tmp_path: Path, mongod: Mongod, strace: str) -> None:
    with Network(tmp_path / "nodes", mongod) as network:  # whose database syncs elsewhere
        node = network.node("a")
        file = make_file(tmp_path / "X.pkg", 3 * MIB)
        with sync_fails(strace, node) as log:
            answer = node.upload(file.path)
            assert (answer.status, answer.json()["code"]) == (503, "sync_failed")
            assert "Check the disk" in answer.json()["detail"]
            assert injected(log) == 1
        assert node.package(file.name) is None
        assert node.files("blobs") == node.files("uploads") == []
        assert node.upload(file.path).status == 201
        assert node.sha1(file.name) == file.sha1
        assert "Traceback" not in node.log_text()


def test_an_upload_by_tus_continues_where_it_was_safe(network: Network, tmp_path: Path, strace: str) -> None:
    node = network.node("a")
    file = make_file(tmp_path / "X.pkg", 6 * MIB)
    client = tus.TusClient(f"{node.url}/api/v1/uploads", headers={"Authorization": AUTHORIZATION})
    with file.path.open("rb") as stream:
        uploader = client.uploader(file_stream=stream, chunk_size=2 * MIB, metadata={"filename": file.name})
        uploader.upload(stop_at=2 * MIB)
        path = uploader.url.removeprefix(node.url)
        stored = node.layout.upload(path.rpartition("/")[2])
        tus_headers = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}
        with sync_fails(strace, node, stored) as log:
            stream.seek(2 * MIB)
            part = {**tus_headers, "Upload-Offset": str(2 * MIB)}
            failed = node.request("PATCH", path, stream.read(2 * MIB), part)
            assert (failed.status, failed.json()["code"]) == (503, "sync_failed")
            assert injected(log) == 1
        head = node.request("HEAD", path, None, tus_headers)
        assert head.headers["upload-offset"] == str(2 * MIB)
        client.uploader(file_stream=stream, chunk_size=2 * MIB, url=uploader.url).upload()
    assert node.sha1(file.name) == file.sha1
