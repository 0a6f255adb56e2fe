"""How many connections a transfer uses."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.errors import PeerBusy, PeerError, PeerUnreachable
from appliance.domain.manifest import CHUNK_SIZE, Manifest
from appliance.peering.address import PeerAddress
from appliance.service import fetcher as module
from appliance.service.fetcher import FAILURES, Fetch, Progress, Source
from appliance.service.frontier import FrontierHash
from appliance.service.landing import Landing
from appliance.service.recent import Buffers
from appliance.store.blobs import BlobStore
from appliance.store.filesystem import aligned_buffer
from appliance.store.layout import Layout
from appliance.store.partial import PartialFile
from tests.builders import manifest_of

COUNT = 48
DATA = b"".join(bytes([number]) * CHUNK_SIZE for number in range(COUNT))


class Peers:
    """Connections that bring chunks, each as if the network took so long."""

    def __init__(self, chunk_s: float) -> None:
        self.chunk_s = chunk_s
        self.clock = threading.local()

    def monotonic(self) -> float:
        return float(getattr(self.clock, "now", 0.0))

    @contextmanager
    def connection(self, address: PeerAddress) -> Iterator["Peers"]:
        yield self

    def fetch(
        self,
        package: str,
        manifest: Manifest,
        run: range,
        on_chunk: Callable[[int, memoryview], memoryview | None],
    ) -> None:
        buffer = aligned_buffer(CHUNK_SIZE)
        for index in run:
            self.clock.now = self.monotonic() + self.chunk_s
            buffer[:] = DATA[index * CHUNK_SIZE : (index + 1) * CHUNK_SIZE]
            buffer = on_chunk(index, buffer) or buffer


@pytest.mark.parametrize(
    ("sources", "chunk_s", "threads"),
    [(1, 0.0005, 1), (1, 0.02, 4), (1, 2.0, 4), (3, 0.0005, 3), (9, 0.0005, 4)],
    ids=["fast", "slow", "very slow", "three sources", "many sources"],
)
def test_more_connections_while_the_network_is_what_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: int, chunk_s: float, threads: int
) -> None:
    layout = Layout(tmp_path)
    BlobStore(layout, floor_bytes=0)
    manifest = manifest_of(DATA)
    partial = PartialFile.open(layout, "t", manifest)
    peers: Any = Peers(chunk_s)
    monkeypatch.setattr(module.time, "monotonic", peers.monotonic)
    began: list[threading.Thread] = []

    def spawn(work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=work)
        thread.start()
        began.append(thread)
        return thread

    with ThreadPoolExecutor(1) as hashing:
        whole = FrontierHash(partial, len(DATA), hashing, Buffers())
        with Landing(partial, whole, len(DATA)) as landing:
            fetch = Fetch(
                package="p",
                manifest=manifest,
                partial=partial,
                progress=Progress(
                    sources=[
                        Source(node=f"n{i}", name=f"n{i}", address=PeerAddress(node=f"n{i}", url="http://n"))
                        for i in range(sources)
                    ]
                ),
                pool=peers,
                check=lambda: None,
                landing=landing,
                on_strike=lambda source, reason: None,
                on_fetched=lambda source, size: None,
            )
            fetch.run(4, spawn)
        assert whole.digests() == (hashlib.sha1(DATA).hexdigest(), hashlib.sha256(DATA).hexdigest())
    whole.close()
    assert len(began) + 1 == threads
    assert partial.finish().read_bytes() == DATA


def test_for_other_packages_a_source_is_away_but_not_refusing() -> None:
    address = PeerAddress(node="n", url="http://127.0.0.1:1")
    gone, refusing, other = (Source(node=node, name=node, address=address) for node in ("a", "b", "c"))
    gone.failures, gone.error = FAILURES, "a cut the connection."
    refusing.refused = True
    assert (gone.usable, gone.away) == (False, True)
    assert (refusing.usable, refusing.away) == (False, False)
    other.like(gone)
    assert (other.usable, other.error) == (False, "a cut the connection.")


def test_it_is_said_when_nobody_has_the_bytes(tmp_path: Path) -> None:
    """Each refers to the others: to repeat that says nothing."""

    class Lacking:
        def connection(self, address: PeerAddress) -> Any:
            if address.node == "n2":
                raise PeerUnreachable("n2 cannot be reached.")
            raise PeerBusy(
                "It answered 503 (package_arriving): fetched from others.", code="package_arriving"
            )

    BlobStore(Layout(tmp_path), floor_bytes=0)
    manifest = manifest_of(DATA)
    for sources, words in (
        (2, "None of the nodes that were asked has the file now: n0, n1."),
        (3, "missing chunks (n2: n2 cannot be reached; n0, n1: no file there now)."),
    ):
        partial = PartialFile.open(Layout(tmp_path), "t", manifest)
        whole = FrontierHash(partial, manifest.size, None, Buffers())  # type: ignore[arg-type]
        with Landing(partial, whole, manifest.size) as landing:
            fetch = Fetch(
                package="p", manifest=manifest, partial=partial,
                progress=Progress(
                    sources=[
                        Source(node=f"n{i}", name=f"n{i}", address=PeerAddress(node=f"n{i}", url="http://n"))
                        for i in range(sources)
                    ]
                ),
                pool=Lacking(),  # type: ignore[arg-type]
                check=lambda: None, landing=landing,
                on_strike=lambda source, reason: None, on_fetched=lambda source, size: None,
            )  # fmt: skip
            with pytest.raises(PeerError) as told:
                fetch.run(1, lambda work: threading.Thread(target=work))
        assert words in told.value.message
        whole.close()
        partial.close()
