"""A node is killed at each durable step of publishing and of fetching: either the old state is there or the new one.

`strace` kills the process just when it makes its n-th system call of a kind.
"""

import contextlib
import hashlib
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.builders import MIB, File, make_file
from tests.conftest import skip_or_fail
from tests.harness import Network, NodeProcess, eventually
from tests.harness.command import ods

KILL_S = 5.0  #: so long is a call waited for that may never be made


@contextlib.contextmanager
def killed_at(strace: str, node: NodeProcess, calls: str, number: int) -> Iterator[None]:
    """Kill a running node when it makes the n-th of these system calls from now on."""
    command = [strace, "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}"]
    command += ["-e", f"inject={calls}:signal=SIGKILL:when={number}", "-p", str(node.pid)]
    with attached(command, node):
        yield


@contextlib.contextmanager
def attached(command: list[str], node: NodeProcess) -> Iterator[None]:
    """Run strace beside a node until the block ends."""
    tracer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        status = Path(f"/proc/{node.pid}/status")

        def traced() -> bool:
            if tracer.poll() is not None:
                assert tracer.stderr is not None
                skip_or_fail(f"strace cannot attach here: {tracer.stderr.read().decode().strip()}")
            return f"TracerPid:\t{tracer.pid}" in status.read_text()

        eventually(traced, 10, "strace does not attach")
        yield
    finally:
        tracer.terminate()
        tracer.wait(10)
        assert tracer.stderr is not None
        tracer.stderr.close()


def all_right(node: NodeProcess, old: File, new: File) -> str:
    """Which of two files the node serves; anything else is a failure."""
    answer = node.download(old.name)
    assert answer.status == 200, answer.status
    served = hashlib.sha256(answer.body).hexdigest()
    assert served in {old.sha256, new.sha256}
    package = node.package(old.name)
    assert package is not None
    assert package["sha256"] in {old.sha256, new.sha256}
    if package["presence"] == "held":
        assert served == package["sha256"]
    public = node.layout.packages / old.name
    assert hashlib.sha256(public.read_bytes()).hexdigest() == served
    return served


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "calls", ["fsync,fdatasync", "rename,renameat,renameat2,link,linkat", "unlink,unlinkat"]
)
def test_a_replacement_cut_off_at_any_step_leaves_the_old_file_or_the_new(
    network: Network, tmp_path: Path, need: Callable[[str], str], calls: str
) -> None:
    strace = need("strace")
    old, new = (
        make_file(tmp_path / "1" / "X.pkg", 2 * MIB, 1),
        make_file(tmp_path / "2" / "X.pkg", 3 * MIB, 2),
    )
    node = network.node("a", PACKAGES_KEEP_DAYS="0")
    node.publish(old.path)
    killed = 0
    for number in range(1, 12):
        with killed_at(strace, node, calls, number):
            acknowledged = node.upload(new.path, replace="true").status == 200
            with contextlib.suppress(AssertionError):
                eventually(lambda: not node.running, KILL_S)
        if node.running:
            break  # the whole of it has fewer steps
        killed += 1
        node.restart()
        served = all_right(node, old, new)
        if acknowledged:
            assert served == new.sha256, f"an acknowledged upload was lost at step {number}"
        found = {name.rpartition("/")[2] for name in node.files("blobs")}
        assert served in found <= {old.sha256, new.sha256}, "what nothing names stays for a day"
        assert len(node.files("public/Packages")) == 1
        # Back to the old file for the next step.
        if served == new.sha256:
            node.publish(old.path, replace="true")
    assert killed >= 1
    node.publish(new.path, replace="true")
    assert node.sha1(new.name) == new.sha1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("calls", ["rename,renameat,renameat2", "unlink,unlinkat"])
def test_a_version_that_leaves_the_trash_leaves_no_file_that_nobody_knows_of(
    network: Network, tmp_path: Path, need: Callable[[str], str], calls: str
) -> None:
    """Cut off between its row and its file, the file is found at the start, and kept as one that nothing names."""
    strace = need("strace")
    files = [make_file(tmp_path / str(number) / "X.pkg", MIB, number) for number in range(3)]
    node = network.node("a", PACKAGES_KEEP_VERSIONS="1")
    for file in files[:2]:
        node.publish(file.path, replace="true")
    killed = 0
    for number in range(1, 12):
        new = files[(number + 1) % 3]
        with killed_at(strace, node, calls, number):
            node.upload(new.path, replace="true")  # the one before goes into the trash, and one out of it
            with contextlib.suppress(AssertionError):
                eventually(lambda: not node.running, KILL_S)
        if node.running:
            break
        killed += 1
        node.restart()
        versions = node.api("GET", "/packages/X.pkg/versions")["items"]
        assert versions[0]["current"]
        assert all(version["here"] for version in versions), f"step {number} lost a file"
        found = {name.rpartition("/")[2] for name in node.files("blobs")}
        assert found >= {version["sha256"] for version in versions}, f"step {number} lost a file"
        node.publish(new.path, replace="true")
    assert killed >= 1
    node.stop()
    checked = ods(node, "fsck", "--read-data")
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_transfer_cut_off_at_any_step_of_its_end_is_completed(
    network: Network, tmp_path: Path, need: Callable[[str], str]
) -> None:
    strace = need("strace")
    a, b = network.chain("a", "b")
    for number in range(1, 9):
        file = make_file(tmp_path / f"{number}.pkg", 2 * MIB, number)
        with killed_at(strace, b, "fdatasync,rename,link,unlink", number):
            a.publish(file.path)
            with contextlib.suppress(AssertionError):
                eventually(lambda: not b.running, KILL_S)
        if not b.running:
            b.restart()
        b.wait_holds(file.name, file.sha256)
        assert b.sha1(file.name) == file.sha1
        eventually(lambda: b.files("partial") == [], 10, "a partial file is left")
