"""Damage on the disk: nobody is served it, and it is repaired from wherever right bytes are."""

import contextlib
import http.client
import os
import random
import shutil
import socket
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.builders import MIB, File, make_file
from tests.faults.test_crash_points import attached
from tests.harness import Network, NodeProcess, eventually, workers
from tests.harness.command import ods
from tests.harness.node import download_path
from tests.keys import identity_at


def flip(path: Path, at: int = 0, *, keep_time: bool = False) -> None:
    """Flip one bit; as a disk does it, the file's time stays."""
    info = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    if keep_time:
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def extend(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def zero_page(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(MIB)
        file.write(bytes(4096))


def swap_chunks(path: Path) -> None:
    with path.open("r+b") as file:
        first, second = file.read(MIB), file.read(MIB)
        file.seek(0)
        file.write(second + first)


def other_file(path: Path) -> None:
    size = path.stat().st_size
    path.unlink()
    path.write_bytes(os.urandom(size))


def delete(path: Path) -> None:
    path.unlink()


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_bytes(b"x")


def link_elsewhere(path: Path) -> None:
    elsewhere = path.parents[3] / "elsewhere"
    elsewhere.write_bytes(os.urandom(path.stat().st_size))
    path.unlink()
    path.symlink_to(elsewhere)


def dead_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/nowhere")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def empty(path: Path) -> None:
    os.truncate(path, 0)


DAMAGES = [
    flip, truncate, extend, zero_page, swap_chunks, other_file, delete, directory, link_elsewhere, dead_link, pipe,
    empty,
]  # fmt: skip


def served(node: NodeProcess, file: File) -> bool:
    """Whether a reader gets the file; wrong bytes with a good answer are a failure."""
    answer = node.download(file.name)
    assert answer.status in {200, 503}, answer.status
    if answer.status == 200:
        assert answer.body == file.path.read_bytes(), "wrong bytes were served"
    return answer.status == 200


def test_damage_of_every_kind_is_seen_by_the_first_reader_and_repaired(
    network: Network, tmp_path: Path
) -> None:
    a, b = network.chain("a", "b")
    files = [
        make_file(tmp_path / f"{damage.__name__}.pkg", 2 * MIB + 9, damage.__name__) for damage in DAMAGES
    ]
    for file in files:
        a.publish(file.path)
    for file in files:
        b.wait_holds(file.name, file.sha256)
    for file, damage in zip(files, DAMAGES, strict=True):
        damage(b.layout.blob(file.sha256))
    for file in files:
        served(b, file)
        b.head(file.name)
    for file in files:
        eventually(lambda file=file: served(b, file), 30, b.tail)
        assert (b.layout.packages / file.name).read_bytes() == file.path.read_bytes()
    eventually(lambda: len(b.events("package.repaired")) == len(DAMAGES), 20, b.tail)
    assert len(b.events("package.damaged")) == len(DAMAGES)
    eventually(lambda: list(b.layout.quarantine.iterdir()) == [], 20, "what is repaired need not be kept")
    assert "Traceback" not in b.log_text()


def test_a_start_looks_at_its_files_before_it_says_that_it_holds_them(
    any_network: Network, tmp_path: Path
) -> None:
    a, b = any_network.node("a", proxied=True), any_network.node("b")
    b.join(a)
    files = [make_file(tmp_path / f"{number}.pkg", MIB + number, number) for number in range(4)]
    for file in files:
        a.publish(file.path)
    for file in files:
        b.wait_holds(file.name, file.sha256)
    b.stop()
    any_network.proxies["a"].down()
    shutil.rmtree(b.layout.blobs)  # a restore without them
    b.start()
    for file in files:
        assert b.presence(file.name) != "held"
        assert b.head(file.name).status == 503
    assert not b.files("public/Packages")
    any_network.proxies["a"].up()
    for file in files:
        b.wait_holds(file.name, file.sha256)
    b.stop()
    flip(b.layout.blob(files[0].sha256))
    b.layout.blob(files[1].sha256).touch()  # another time and the same bytes are no damage
    b.start()
    assert served(b, files[1])
    for file in files:
        b.wait_holds(file.name, file.sha256)
        assert served(b, file)
    reasons = [event["data"]["reason"] for event in b.events("package.damaged")]
    assert len(reasons) == 5
    assert sum("missing" in reason for reason in reasons) == 4
    assert sum("SHA-256" in reason for reason in reasons) == 1


def test_the_right_file_uploaded_again_repairs_the_damaged_one(network: Network, tmp_path: Path) -> None:
    node = network.node("alone")
    file = make_file(tmp_path / "Only.pkg", 2 * MIB + 5)
    node.publish(file.path)
    node.publish(file.path, "Same bytes.pkg")
    blob = node.layout.blob(file.sha256)
    flip(blob, MIB, keep_time=True)  # nobody has seen it yet
    answer = node.upload(file.path, "Another name.pkg")
    assert answer.status == 201
    for name in ("Only.pkg", "Same bytes.pkg", "Another name.pkg"):
        assert node.sha1(name) == file.sha1
        assert (node.layout.packages / name).read_bytes() == file.path.read_bytes()
    assert (
        len({(node.layout.packages / name).stat().st_ino for name in os.listdir(node.layout.packages)}) == 1
    )
    flip(blob, MIB, keep_time=True)
    assert node.upload(file.path, "Only.pkg", replace="true").status == 200
    assert node.sha1("Same bytes.pkg") == file.sha1

    # One that was seen: it is not served, and the node says what it needs.
    flip(blob, MIB)
    assert node.download("Only.pkg").status == 503
    for name in ("Only.pkg", "Same bytes.pkg", "Another name.pkg"):
        package = node.package(name)
        assert package is not None
        assert package["presence"] == "damaged"
        assert "no node is known to hold it. Upload the same file again" in package["reason"]
        assert node.head(name).status == 503
    assert node.files("public/Packages") == []
    assert len(node.files("quarantine")) == 1
    assert len(node.events("package.damaged")) == 3
    node.restart()
    assert node.presence("Only.pkg") == "damaged"
    assert len(node.files("quarantine")) == 1, "the only copy is kept"
    assert node.upload(file.path, "Only.pkg", replace="true").status == 200
    for name in ("Only.pkg", "Same bytes.pkg", "Another name.pkg"):
        eventually(lambda name=name: node.presence(name) == "held", 20, node.tail)
        assert node.sha1(name) == file.sha1
    eventually(lambda: node.files("quarantine") == [], 20, "what is repaired need not be kept")
    assert len(node.events("package.repaired")) >= 1


def test_two_names_of_one_damaged_file_are_repaired_together(network: Network, tmp_path: Path) -> None:
    a, b = network.chain("a", "b")
    file = make_file(tmp_path / "One.pkg", 2 * MIB)
    a.publish(file.path)
    a.publish(file.path, "Two.pkg")
    for name in ("One.pkg", "Two.pkg"):
        b.wait_holds(name, file.sha256)
    flip(b.layout.blob(file.sha256))
    b.api("POST", "/packages/Two.pkg/verify")
    eventually(lambda: len(b.events("package.repaired")) == 2, 30, b.tail)
    for name in ("One.pkg", "Two.pkg"):
        b.wait_holds(name, file.sha256)
        assert b.sha1(name) == file.sha1
        # Each of the two may have been fetched: the file that came last is linked a moment after it is here.
        link, blob = b.layout.packages / name, b.layout.blob(file.sha256)
        eventually(lambda link=link, blob=blob: os.path.samefile(link, blob), 30, b.tail)


def test_a_mode_that_somebody_took_away_is_given_back(network: Network, tmp_path: Path) -> None:
    node = network.node("alone")
    file = make_file(tmp_path / "Closed.pkg", 1000)
    node.publish(file.path)
    blob = node.layout.blob(file.sha256)
    node.stop()
    blob.chmod(0)
    node.start()
    assert stat.S_IMODE(blob.stat().st_mode) == 0o644
    assert served(node, file)
    assert node.events("package.damaged") == []


def test_a_source_that_gave_wrong_bytes_is_told_and_repairs_itself(network: Network, tmp_path: Path) -> None:
    a, b = network.chain("a", "b")
    c = network.node("c", start=False)
    file = make_file(tmp_path / "Bad.pkg", 3 * MIB)
    a.publish(file.path)
    b.wait_holds(file.name, file.sha256)
    flip(a.layout.blob(file.sha256), MIB, keep_time=True)
    c.start()
    c.join(a)  # knows no other source
    eventually(lambda: a.events("package.damaged"), 30, lambda: a.tail() + c.tail())
    eventually(lambda: a.events("package.repaired"), 30, a.tail)
    assert served(a, file)
    c.wait_holds(file.name, file.sha256)
    assert c.sha1(file.name) == file.sha1


def test_complaints_cost_one_reading(network: Network, tmp_path: Path) -> None:
    import time

    from appliance.domain.errors import PeerRefused
    from appliance.peering.address import PeerAddress
    from appliance.peering.client import PeerClient

    a, b = network.chain("a", "b")
    file = make_file(tmp_path / "Good.pkg", MIB)
    package = a.publish(file.path)["id"]
    b.wait_holds(file.name, file.sha256)
    identity = identity_at(b.layout.identity / "node.key")
    address = PeerAddress(node=a.id, url=a.url, tls_fingerprint="", ca_file="")
    client = PeerClient(identity, address, now=lambda: time.time_ns() // 1_000_000)
    for _ in range(5):
        client.complain(package, file.sha256, 0)
        client.complain(package, "0" * 64, 0)
    with pytest.raises(PeerRefused):
        client.complain("a" * 32, file.sha256, 0)
    client.close()
    eventually(
        lambda: [job["state"] for job in a.api("GET", "/jobs?name=blob.verify")["items"]] == ["done"],
        20,
        a.tail,
    )
    assert len(list(a.lines("complaint"))) == 1
    assert a.events("package.damaged") == []


def test_files_that_lie_here_already_are_verified_before_they_are_served(
    network: Network, tmp_path: Path
) -> None:
    """Bytes that somebody put on the disk count when they were read, and not before."""
    a, b = network.node("a"), network.node("b")
    good, bad = make_file(tmp_path / "good.pkg", 12 * MIB, 1), make_file(tmp_path / "bad.pkg", 12 * MIB, 2)
    for file in (good, bad):
        a.publish(file.path)
        blob = b.layout.blob(file.sha256)
        blob.parent.mkdir(exist_ok=True)
        shutil.copyfile(file.path, blob)
    flip(b.layout.blob(bad.sha256), 3 * MIB)
    b.join(a)
    for file in (good, bad):
        b.wait_holds(file.name, file.sha256)
        assert b.sha1(file.name) == file.sha1
    assert b.metric("ods_fetched_bytes_total") == MIB, "all but one chunk was here"


def test_a_file_that_is_cut_while_it_is_read_is_noticed(network: Network, tmp_path: Path) -> None:
    a, b = network.chain("a", "b")
    file = make_file(tmp_path / "Cut.pkg", 64 * MIB)
    a.publish(file.path)
    b.wait_holds(file.name, file.sha256)
    with socket.create_connection(("127.0.0.1", b.port), timeout=60) as reader:
        reader.sendall(f"GET {download_path(file.name)} HTTP/1.0\r\n\r\n".encode())
        reader.recv(1000)
        os.truncate(b.layout.blob(file.sha256), 2 * MIB)
        while reader.recv(MIB):
            pass
    eventually(lambda: b.events("package.damaged"), 20, b.tail)
    b.wait_holds(file.name, file.sha256)
    assert b.sha1(file.name) == file.sha1
    assert b.metric("ods_fetched_bytes_total") == file.size + 62 * MIB


def test_a_file_that_the_disk_cannot_read_is_repaired(
    network: Network, tmp_path: Path, need: Callable[[str], str]
) -> None:
    strace = need("strace")
    a, b = network.chain("a", "b")
    file = make_file(tmp_path / "Unreadable.pkg", 3 * MIB)
    a.publish(file.path)
    b.wait_holds(file.name, file.sha256)
    blob = b.layout.blob(file.sha256)
    calls = "read,pread64,preadv,preadv2,sendfile"
    command = [strace, "-f", "-qq", "-o", "/dev/null", "-P", str(blob), "-e", f"trace={calls}"]
    with attached([*command, "-e", f"inject={calls}:error=EIO", "-p", str(b.pid)], b):
        with pytest.raises(http.client.IncompleteRead):  # the headers were sent: the connection is cut
            b.download(file.name)
        events = eventually(lambda: b.events("package.damaged"), 20, b.tail)
    assert "cannot be read: Input/output error" in events[0]["data"]["reason"]
    b.wait_holds(file.name, file.sha256)
    assert b.sha1(file.name) == file.sha1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_of_two_thousand_files_are_found_and_repaired(network: Network, tmp_path: Path) -> None:
    a, b = network.node("a"), network.node("b")
    chance = random.Random(3)
    files = [
        make_file(tmp_path / f"{number:04}.pkg", chance.randrange(1, 3000), number) for number in range(1980)
    ]
    large = [make_file(tmp_path / f"large-{number:02}.pkg", 2 * MIB + 9, number) for number in range(20)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda file: put(a, file), [*files, *large]))
    b.join(a)
    eventually(lambda: b.api("GET", "/packages?presence=held&limit=1")["total"] == 2000, 300, b.tail)
    kinds = [flip, zero_page, swap_chunks, other_bytes]  # that no look can see
    silent = {file.name: file for file in large[:12]}
    for number, file in enumerate(silent.values()):
        damage_silently(b.layout.blob(file.sha256), kinds[number % len(kinds)])
    seen = {file.name: file for file in large[12:]}
    for file, damage in zip(
        seen.values(), [truncate, extend, delete, directory, dead_link, empty, pipe, flip], strict=True
    ):
        damage(b.layout.blob(file.sha256))
    b.api("POST", "/scrub")
    wrong: list[str] = []
    while True:  # Macs read meanwhile
        for file in large:
            answer = b.download(file.name)
            right = answer.status == 503 or (answer.status == 200 and answer.body == file.path.read_bytes())
            if not right and (file.name in seen or b.events("scrub.damage")):
                wrong.append(file.name)
        if b.events("scrub.damage") and len(b.events("package.repaired")) >= 20:
            break
    assert wrong == []
    for file in large:
        b.wait_holds(file.name, file.sha256)
        assert b.sha1(file.name) == file.sha1
    status = b.api("GET", "/scrub")
    assert (status["damaged"], status["due_files"], status["repaired"]) == (0, 0, 20)
    assert status["last"]["files"] + len(seen) >= 2000
    fetched = b.metric("ods_fetched_bytes_total") - sum(file.size for file in [*files, *large])
    assert fetched < 20 * 3 * MIB, "right chunks are not fetched again"
    for file in chance.sample(files, 50):
        assert b.sha1(file.name) == file.sha1
    assert ods(b, "fsck", "--read-data").returncode == 0


def put(node: NodeProcess, file: File) -> None:
    path = f"/api/v1/packages/{file.name}"
    assert node.request("PUT", path, file.path.read_bytes()).status == 201


def other_bytes(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def damage_silently(path: Path, damage: Callable[[Path], None]) -> None:
    """As a disk does it: the file's time stays."""
    info = path.stat()
    damage(path)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


@pytest.mark.parametrize("split", [False, True], ids=["one process", "a worker beside it"])
def test_a_scrub_finds_what_no_look_can_see(any_network: Network, tmp_path: Path, split: bool) -> None:
    a = any_network.node("a")
    b = any_network.node("b", **({"WORKER_EMBEDDED": "false"} if split else {}))
    with workers(b) if split else contextlib.nullcontext():
        b.join(a)
        files = [make_file(tmp_path / f"{number}.pkg", MIB + number, number) for number in range(8)]
        for file in files:
            b.publish(file.path)
        for file in files:
            a.wait_holds(file.name, file.sha256)
            eventually(lambda file=file: held_by(b, file) == {"a", "b"}, 20, b.tail)
        for file in files[:3]:
            flip(b.layout.blob(file.sha256), 5, keep_time=True)
        done = ods(b, "scrub", "--now", "--wait", "--json", "--timeout", "2m")
        assert '"damaged": 3' in done.stdout, done.stdout + done.stderr
        eventually(lambda: len(b.events("package.repaired")) == 3, 30, b.tail)
        for file in files:
            b.wait_holds(file.name, file.sha256)
            assert served(b, file)
        status = b.api("GET", "/scrub")
        assert (status["last"]["files"], status["last"]["damaged"], status["damaged"]) == (8, 3, 0)
        assert status["repaired"] == 3
        event = b.events("scrub.damage")[0]
        assert event["data"]["damaged"] == 3
        assert ods(b, "scrub").returncode == 0
        assert b.metric("ods_scrub_files_total") == 8
        assert b.metric("ods_scrub_damaged_files_total") == 3


def held_by(node: NodeProcess, file: File) -> set[str]:
    """The names of the nodes that hold a file, as a node knows it."""
    package = node.package(file.name)
    return {replica["name"] for replica in (package or {})["replicas"] if replica["presence"] == "held"}
