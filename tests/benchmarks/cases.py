"""The cases: each times our way and the rivals' in turn."""

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .nodes import AUTHORIZATION, Node
from .rivals import nginx, rsync_daemon

MIB = 1024 * 1024
ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    case: str
    ours: float  #: seconds
    rival: str
    theirs: float  #: seconds; 0 if the target is absolute
    target: str
    met: bool

    @property
    def ratio(self) -> float:
        """Ours by theirs; below 1 is faster."""
        return self.ours / self.theirs if self.theirs else 0.0


class Bench:
    """A directory for a run, and how big things are."""

    def __init__(self, root: Path, scale: float) -> None:
        self.root = root
        self._scale = scale
        self._count = 0

    def size(self, mib: int) -> int:
        """Bytes of a file that is `mib` MiB at full scale."""
        return max(1, round(mib * self._scale)) * MIB

    def many(self, count: int) -> int:
        """How many files, at least four."""
        return max(4, round(count * self._scale))

    def place(self, name: str) -> Path:
        """A fresh path."""
        self._count += 1
        return self.root / f"{name}-{self._count}"

    def file(self, path: Path, size: int) -> Path:
        """A file of random bytes."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            for start in range(0, size, 16 * MIB):
                file.write(os.urandom(min(16 * MIB, size - start)))
        return path

    def warm(self, size: int) -> None:
        """Let the machine have its memory before the clock runs."""
        path = self.root / "warm"
        block = bytes(MIB)
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
            for start in range(0, size, MIB):
                os.pwrite(file.fileno(), block, start)
        path.unlink()
        os.sync()


def timed(action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def shell(command: str) -> None:
    """Run a shell line; it must succeed."""
    subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def running(*servers: object) -> Iterator[None]:
    """Stop servers at the end."""
    try:
        yield
    finally:
        for server in servers:
            server.stop()  # type: ignore[attr-defined]


def until(condition: Callable[[], bool], timeout: float = 300.0) -> None:
    """Wait for a condition, looking every 40 ms."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("it does not happen")
        time.sleep(0.04)


def replicate_one(bench: Bench) -> list[Row]:
    """One 2 GiB file to a node that joins."""
    size = bench.size(2048)
    files = bench.place("files")
    path = bench.file(files / "big.pkg", size)
    source = Node(bench.place("a"), "a")
    web, daemon = nginx(bench.place("nginx"), files), rsync_daemon(bench.place("rsync"), files)
    ours, curl, rsync = [], [], []
    with running(source, web, daemon):
        shell(f"curl -sf -H 'Authorization: {AUTHORIZATION}' -T {path} {source.url}/api/v1/packages/big.pkg")
        for _ in range(ROUNDS):
            place = bench.place("b")
            node = Node(place, "b")
            bench.warm(size)
            with running(node):
                before = source.cpu_s() + node.cpu_s()
                ours.append(
                    timed(
                        lambda: (
                            node.join(source),
                            until(lambda: node.status("/Packages/big.pkg", "HEAD") == 200),
                        )
                    )
                )
                cpu = source.cpu_s() + node.cpu_s() - before
                print(f"  replicate 2 GiB: {ours[-1]:.2f} s, CPU of both nodes {cpu:.2f} s", flush=True)
            shutil.rmtree(place)
            copy = bench.place("copy")
            bench.warm(size)
            curl.append(
                timed(
                    lambda: shell(f"curl -sf -o {copy} http://127.0.0.1:{web.port}/big.pkg && sha1sum {copy}")
                )
            )
            copy.unlink()
            bench.warm(size)
            rsync.append(
                timed(lambda: shell(f"rsync -a rsync://127.0.0.1:{daemon.port}/files/big.pkg {copy}"))
            )
            copy.unlink()
    return _two("replicate 2 GiB, all hashes verified", ours, curl, rsync)


def replicate_many(bench: Bench) -> list[Row]:
    """400 files of 5 MiB to a node that joins; each time two new nodes, or one would know of those before."""
    count, size = bench.many(400), 5 * MIB
    files = bench.place("files")
    names = [f"p{number:04}.pkg" for number in range(count)]
    for name in names:
        bench.file(files / name, size)
    web, daemon = nginx(bench.place("nginx"), files), rsync_daemon(bench.place("rsync"), files)
    ours, curl, rsync = [], [], []
    with running(web, daemon):
        urls = bench.place("urls")
        urls.write_text(
            "".join(f"url = http://127.0.0.1:{web.port}/{name}\noutput = {name}\n" for name in names)
        )
        for _ in range(ROUNDS):
            ours.append(_join_many(bench, files, names))
            copy = bench.place("copy")
            copy.mkdir()
            bench.warm(count * size)
            curl.append(timed(lambda: shell(f"cd {copy} && curl -sf -K {urls} && sha1sum *.pkg")))
            shutil.rmtree(copy)
            bench.warm(count * size)
            rsync.append(timed(lambda: shell(f"rsync -a rsync://127.0.0.1:{daemon.port}/files/ {copy}/")))
            shutil.rmtree(copy)
    return _two(f"replicate {count} x 5 MiB, all hashes verified", ours, curl, rsync)


def _join_many(bench: Bench, files: Path, names: list[str]) -> float:
    """Seconds until a node that joins another holds all of its packages."""
    places = bench.place("a"), bench.place("b")
    source, node = Node(places[0], "a"), Node(places[1], "b")
    with running(source, node):
        for name in names:
            target = f"{source.url}/api/v1/packages/{name}"
            shell(f"curl -sf -H 'Authorization: {AUTHORIZATION}' -T {files / name} {target}")
        bench.warm(sum((files / name).stat().st_size for name in names))

        def arrive() -> None:
            node.join(source)
            until(lambda: node.api("GET", "/packages?presence=held&limit=1")["total"] == len(names))

        before = source.cpu_s() + node.cpu_s()
        taken = timed(arrive)
        cpu = source.cpu_s() + node.cpu_s() - before
        print(f"  replicate many: {taken:.2f} s, CPU of both nodes {cpu:.2f} s", flush=True)
    for place in places:
        shutil.rmtree(place)
    return taken


def _two(case: str, ours: list[float], curl: list[float], rsync: list[float]) -> list[Row]:
    mine, web, daemon = (statistics.median(times) for times in (ours, curl, rsync))
    return [
        Row(
            case=case,
            ours=mine,
            rival="curl from nginx + sha1sum",
            theirs=web,
            target="<= 0.7",
            met=mine <= 0.7 * web,
        ),
        Row(case=case, ours=mine, rival="rsync daemon", theirs=daemon, target="<= 2", met=mine <= 2 * daemon),
    ]


def upload(bench: Bench) -> list[Row]:
    """1 GiB by `curl -T`, hashed and published, against nginx PUT and sha1sum."""
    size = bench.size(1024)
    path = bench.file(bench.place("files") / "up.pkg", size)
    files = bench.place("root")
    (files / "put").mkdir(parents=True)
    node, web = Node(bench.place("a"), "a"), nginx(bench.place("nginx"), files)
    ours, theirs = [], []
    with running(node, web):
        for number in range(ROUNDS):
            bench.warm(size)
            target = f"{node.url}/api/v1/packages/up{number}.pkg"
            before = node.cpu_s()
            ours.append(
                timed(lambda: shell(f"curl -sf -H 'Authorization: {AUTHORIZATION}' -T {path} {target}"))
            )
            print(f"  upload: {ours[-1]:.2f} s, CPU of the node {node.cpu_s() - before:.2f} s", flush=True)
            node.api("DELETE", f"/packages/up{number}.pkg")
            bench.warm(size)
            put = f"curl -sf -T {path} http://127.0.0.1:{web.port}/put/up{number}.pkg"
            theirs.append(timed(lambda: shell(f"{put} && sha1sum {files}/put/up{number}.pkg")))
            (files / "put" / f"up{number}.pkg").unlink()
    mine, other = statistics.median(ours), statistics.median(theirs)
    return [
        Row(
            case="upload 1 GiB",
            ours=mine,
            rival="nginx PUT + sha1sum",
            theirs=other,
            target="<= 1",
            met=mine <= other,
        )
    ]


def download(bench: Bench) -> list[Row]:
    """One stream and 50 streams against nginx; the target is a rate of at least 0.6 of nginx's."""
    size = bench.size(1024)
    files = bench.place("files")
    path = bench.file(files / "down.pkg", size)
    node, web = Node(bench.place("a"), "a"), nginx(bench.place("nginx"), files)
    rows = []
    with running(node, web):
        shell(f"curl -sf -H 'Authorization: {AUTHORIZATION}' -T {path} {node.url}/api/v1/packages/down.pkg")
        for streams, part in ((1, size), (50, max(MIB, size // 16))):
            ours, theirs = [], []
            for _ in range(ROUNDS):
                ours.append(timed(lambda: _streams(f"{node.url}/Packages/down.pkg", streams, part)))
                theirs.append(timed(lambda: _streams(f"http://127.0.0.1:{web.port}/down.pkg", streams, part)))
            mine, other = statistics.median(ours), statistics.median(theirs)
            rows.append(
                Row(
                    case=f"download, {streams} stream{'s' if streams > 1 else ''}",
                    ours=mine,
                    rival="nginx",
                    theirs=other,
                    target="rate >= 0.6",
                    met=other / mine >= 0.6,
                )
            )
    return rows


def _streams(url: str, streams: int, part: int) -> None:
    """So many curls at once, each takes the first `part` bytes."""
    clients = [
        subprocess.Popen(["curl", "-sf", "-o", "/dev/null", "-r", f"0-{part - 1}", url])
        for _ in range(streams)
    ]
    if any(client.wait() for client in clients):
        raise RuntimeError("a download failed")


def scrub(bench: Bench) -> list[Row]:
    """Downloads by one stream and by 50, while the node reads all its files again and while it does not."""
    size = bench.size(1024)
    node = Node(bench.place("a"), "a", ODS_SCRUB_DAYS="0")
    rows = []
    with running(node):
        for number in range(2):  # one is served, and both are read
            path = bench.file(bench.place("files") / "s.pkg", size)
            target = f"{node.url}/api/v1/packages/s{number}.pkg"
            shell(f"curl -sf -H 'Authorization: {AUTHORIZATION}' -T {path} {target}")
        for streams, part, times in ((1, size, 8), (50, max(MIB, size // 16), 4)):

            def serve(streams: int = streams, part: int = part, times: int = times) -> None:
                for _ in range(times):
                    _streams(f"{node.url}/Packages/s0.pkg", streams, part)

            serve()
            without, during = [], []
            for _ in range(ROUNDS):
                until(lambda: node.api("GET", "/scrub")["current"] is None)
                without.append(timed(serve))
                node.api("POST", "/scrub")
                until(lambda: node.api("GET", "/scrub")["current"] is not None, 30)
                during.append(timed(serve))
                if node.api("GET", "/scrub")["current"] is None:
                    raise RuntimeError("the scrub was over first: make the files larger")
            mine, other = statistics.median(during), statistics.median(without)
            rows.append(
                Row(
                    case=f"download, {streams} stream{'s' if streams > 1 else ''}, while a scrub runs",
                    ours=mine,
                    rival="the same without",
                    theirs=other,
                    target="<= 1.1",
                    met=mine <= 1.1 * other,
                )
            )
    return rows


def latency(bench: Bench) -> list[Row]:
    """From the end of an upload to the first verified chunk at the peer."""
    a, b = Node(bench.place("a"), "a"), Node(bench.place("b"), "b")
    delays = []
    with running(a, b):
        b.join(a)
        for number in range(20):
            path = bench.file(bench.place("files") / f"l{number}.pkg", 3 * MIB)
            target = f"{a.url}/api/v1/packages/l{number}.pkg"
            shell(f"curl -sf -H 'Authorization: {AUTHORIZATION}' -T {path} {target}")
            until(lambda number=number: b.status(f"/Packages/l{number}.pkg", "HEAD") == 200, 30)  # type: ignore[misc]
            time.sleep(0.05)
        first = {line["package"]: line["first_chunk_at"] for line in b.events("transfer_done")}
        for line in a.events("upload_complete"):
            delays.append((first[line["package"]] - line["received_at"]) / 1000)
    middle = statistics.median(delays)
    print(f"  latency: {min(delays) * 1000:.0f} to {max(delays) * 1000:.0f} ms", flush=True)
    return [
        Row(
            case="upload end to first chunk at the peer",
            ours=middle,
            rival="",
            theirs=0.0,
            target="<= 0.1 s",
            met=middle <= 0.1,
        )
    ]


CASES: dict[str, Callable[[Bench], list[Row]]] = {
    "replicate-one": replicate_one,
    "replicate-many": replicate_many,
    "upload": upload,
    "download": download,
    "latency": latency,
    "scrub": scrub,
}

__all__ = ["CASES", "Bench", "Row"]
