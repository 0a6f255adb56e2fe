"""Folders of the data directory that are taken away while the node runs: made again, or red with the name."""

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builders import MIB, make_file
from tests.conftest import mount
from tests.harness import Network, NodeProcess, eventually


def red(node: NodeProcess) -> str:
    """What readiness says of the folders, "" if nothing."""
    answer = node.request("GET", "/health/ready", anonymous=True, timeout=20)
    assert answer.status in {200, 503}
    check = answer.json()["checks"]["folders"]
    assert check["ok"] == (not check["reason"])
    if check["reason"]:
        assert answer.status == 503
    return str(check["reason"])


def no_faults_of_ours(node: NodeProcess) -> None:
    text = node.log_text()
    assert "Traceback" not in text, node.tail(40)
    assert '"status": 500' not in text, node.tail(40)


@pytest.mark.parametrize("how", ["deleted", "moved"])
def test_folders_that_hold_nothing_of_their_own_are_made_again(
    network: Network, tmp_path: Path, how: str
) -> None:
    a, b = network.chain("a", "b")
    files = [make_file(tmp_path / f"{number}.pkg", MIB + number, number) for number in range(8)]
    a.publish(files[0].path)
    b.wait_holds(files[0].name, files[0].sha256)
    names = ["partial", "uploads", "quarantine", "public/Packages", "public"]
    for name, file in zip(names, files[1:], strict=False):
        folder = b.data / name
        if how == "deleted":
            shutil.rmtree(folder)
        else:
            folder.rename(tmp_path / f"away-{name.replace('/', '-')}")
        # At once, without waiting for anybody to notice.
        assert b.publish(file.path)["presence"] == "held"
        eventually(folder.is_dir, 20, b.tail)
        eventually(lambda: red(b) == "", 20, b.tail)
    for file in files[:6]:
        assert b.sha1(file.name) == file.sha1
    expected = sorted(file.name for file in files[:6])
    eventually(lambda: b.files("public/Packages") == expected, 20, lambda: str(b.files("public/Packages")))
    shutil.rmtree(b.data / "partial")
    a.publish(files[7].path)
    b.wait_holds(files[7].name, files[7].sha256)
    no_faults_of_ours(b)


def test_blobs_and_identity_are_missed_by_name(network: Network, tmp_path: Path) -> None:
    a, b = network.chain("a", "b")
    file, late = make_file(tmp_path / "Thing.pkg", 2 * MIB, 1), make_file(tmp_path / "late.pkg", MIB, 2)
    a.publish(file.path)
    b.wait_holds(file.name, file.sha256)
    for name in ("blobs", "identity"):
        away = tmp_path / name
        (b.data / name).rename(away)
        eventually(lambda name=name: name in red(b), 20, b.tail)
        assert not (b.data / name).exists(), "an empty one would hide the loss"
        assert b.status("/health/live") == 200
        if name == "blobs":
            assert b.upload(late.path).status == 503
            assert b.head(file.name).status == 503
        away.rename(b.data / name)
        eventually(lambda: red(b) == "", 20, b.tail)
    b.wait_holds(file.name, file.sha256)
    b.publish(late.path)
    # Lost for good: an empty one is made by a person, and everything is fetched again.
    shutil.rmtree(b.data / "blobs")
    eventually(lambda: "blobs" in red(b), 20, b.tail)
    (b.data / "blobs").mkdir()
    eventually(lambda: red(b) == "", 20, b.tail)
    eventually(lambda: file.sha256[:2] + "/" + file.sha256 in b.files("blobs"), 40, b.tail)
    b.wait_holds(file.name, file.sha256)
    no_faults_of_ours(b)


def test_a_data_directory_that_was_moved_comes_back_whole(any_network: Network, tmp_path: Path) -> None:
    node = any_network.node("a")
    file = make_file(tmp_path / "x.pkg", MIB, 1)
    node.publish(file.path)
    node.data.rename(tmp_path / "away")
    assert node.head(file.name).status == 503  # at once, before anybody noticed
    assert node.upload(make_file(tmp_path / "late.pkg", MIB, 2).path).status == 503
    eventually(lambda: red(node) != "", 20, node.tail)
    assert not node.data.exists()
    (tmp_path / "away").rename(node.data)
    eventually(lambda: node.status("/health/ready") == 200, 20, node.tail)
    assert node.sha1(file.name) == file.sha1, "it was never damaged"
    node.publish(tmp_path / "late.pkg")
    no_faults_of_ours(node)


@pytest.mark.parametrize(
    "name", ["partial", "uploads", "quarantine", "public", "public/Packages", "blobs", "identity"]
)
def test_a_file_in_a_folders_place_is_told(network: Network, tmp_path: Path, name: str) -> None:
    node = network.node("a")
    folder = node.data / name
    away = tmp_path / "away"
    node.publish(make_file(tmp_path / "x.pkg", MIB, 1).path)
    folder.rename(away)
    folder.write_text("a file")
    eventually(lambda: name in red(node), 20, node.tail)
    late = make_file(tmp_path / "late.pkg", MIB)
    assert node.upload(late.path).status in {201, 503}
    folder.unlink()
    away.rename(folder)
    eventually(lambda: red(node) == "", 20, node.tail)
    node.publish(late.path, replace="true")
    assert folder.is_dir()
    no_faults_of_ours(node)


@pytest.fixture
def mounting(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Mounts something, and takes it away at the end."""

    def do(target: Path, *options: str) -> None:
        mount(target, *options)
        request.addfinalizer(
            lambda: subprocess.run(["umount", "-l", target], check=False, capture_output=True)
        )

    return do


@pytest.mark.parametrize("name", ["blobs", "partial", "uploads"])
@pytest.mark.parametrize("how", ["disk", "bind", "link"])
def test_a_folder_on_another_file_system_is_told(
    network: Network, tmp_path: Path, mounting: Callable[..., None], name: str, how: str
) -> None:
    node = network.node("a", start=False)
    folder = node.data / name
    node.data.mkdir(parents=True)
    other = tmp_path / "other"
    other.mkdir()
    if how == "link":
        mounting(other, "-t", "tmpfs", "-o", "size=64M", "tmpfs")
        folder.symlink_to(other)
    else:
        folder.mkdir()
        mounting(
            folder,
            *(("--bind", str(folder)) if how == "bind" else ("-t", "tmpfs", "-o", "size=64M", "tmpfs")),
        )
    node.start(wait=False)

    def told() -> bool:
        try:
            return "same file system" in red(node)
        except (OSError, KeyError):  # nobody listens yet, or it is the start that answers
            return False

    eventually(told, 30, node.tail)
    assert "partial" in red(node) or name != "partial"
    no_faults_of_ours(node)


def test_a_disk_that_is_unmounted_or_turns_read_only(
    network: Network, tmp_path: Path, mounting: Callable[..., None]
) -> None:
    node = network.node("a", start=False)
    node.data.mkdir(parents=True)
    mounting(node.data, "-t", "tmpfs", "-o", "size=64M", "tmpfs")
    node.start()
    node.publish(make_file(tmp_path / "x.pkg", MIB, 1).path)
    uploads = node.data / "uploads"
    mounting(uploads, "--bind", str(uploads))
    mounting(uploads, "-o", "remount,bind,ro")
    eventually(lambda: "uploads" in red(node), 20, node.tail)
    assert node.upload(make_file(tmp_path / "y.pkg", MIB, 2).path).status == 503
    subprocess.run(["umount", "-l", uploads], check=True)
    eventually(lambda: red(node) == "", 20, node.tail)
    subprocess.run(["umount", "-l", node.data], check=True)
    eventually(lambda: "Mount its disk" in red(node), 20, node.tail)
    assert list(node.data.iterdir()) == [], "nothing is made in what lies below"
    no_faults_of_ours(node)


def test_a_database_that_is_deleted_takes_no_more(network: Network, tmp_path: Path) -> None:
    node = network.node("a")
    file = make_file(tmp_path / "x.pkg", MIB, 1)
    node.publish(file.path)
    for path in node.data.glob("ods.sqlite3*"):
        path.unlink()
    for number in range(6):
        answer = node.upload(make_file(tmp_path / f"late{number}.pkg", MIB, number + 2).path)
        assert answer.status == 503, answer.body
    eventually(lambda: node.status("/health/ready") == 503, 10, node.tail)
    for _ in range(4):
        answer = node.request("GET", "/health/ready", anonymous=True, timeout=20)
        check = answer.json()["checks"]["store"]
        assert (answer.status, check["ok"], "ods import" in check["reason"]) == (503, False, True), check
        time.sleep(1.1)  # an answer is good for a second
    assert node.sha1(file.name) == file.sha1, "downloads go on"
    assert list(node.data.glob("ods.sqlite3*")) == [], "none is made in its place"
    no_faults_of_ours(node)
