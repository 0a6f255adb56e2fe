"""Fetches the missing chunks of one package from every source at once.

A few threads take runs of neighbouring chunks, lowest first, each from the source with the least to do: one thread a
source, and more while the network is what is waited for. One alone brings chunks in order, which costs least. The SHA-1
of every chunk is checked before it is written (`landing`) and marked. A bad chunk, a wrong size or a broken connection
gives the rest of the run back; bad bytes cost the source a strike, and three strikes end its part in this transfer.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from appliance.domain.chunkmap import ChunkMap
from appliance.domain.errors import (
    ApplianceError,
    ChunkInvalid,
    IntegrityFailure,
    PeerBusy,
    PeerError,
    PeerMisbehaved,
    PeerRefused,
)
from appliance.domain.manifest import Manifest
from appliance.peering.address import PeerAddress
from appliance.peering.content import ContentPool
from appliance.store.partial import PartialFile

from .landing import Landing

log = logging.getLogger(__name__)

RUN = 8  #: chunks in one request
_LONG_RUN = 32  #: in one of a large file: each request costs the source work, and us a pause
_MANY_RUNS = 64  #: so many are enough to share a file among sources
STRIKES = 3
FAILURES = 3
_BUSY_WAIT_S = 0.2
_LACKS = {"package_arriving", "package_unknown"}  #: what a node answers that does not have the bytes
_FAST = 200_000_000  #: bytes a second of one connection; below it another one may bring more
_LOOK_S = 0.05  #: waiting for the network after which that is judged


@dataclass(slots=True)
class Source:
    """A peer that holds the package, and how it did so far in this transfer."""

    node: str
    name: str
    address: PeerAddress
    bytes: int = 0
    chunks: int = 0
    strikes: int = 0  #: wrong bytes or a broken protocol
    failures: int = 0  #: connections lost in a row, or answers that it is busy
    refused: bool = False  #: it does not give this package
    busy: int = 0  #: runs being fetched from it now
    error: str = ""
    lacks: bool = False  #: its last answer was that it does not have the bytes

    @property
    def usable(self) -> bool:
        """Whether it may be asked again in this transfer."""
        return self.strikes < STRIKES and not self.away and not self.refused

    @property
    def away(self) -> bool:
        """Whether it does not answer now, whatever it is asked for."""
        return self.failures >= FAILURES

    def like(self, other: "Source") -> None:
        """Be away as it was a moment ago, for another package."""
        self.failures, self.error = other.failures, other.error


@dataclass(slots=True)
class Progress:
    """What a running transfer has done; read by others while it runs."""

    bytes_done: int = 0
    chunks_done: int = 0
    sources: list[Source] = field(default_factory=list)
    chunks: ChunkMap | None = None  #: the partial file's map, once it is open


class Fetch:
    """One attempt to complete a partial file."""

    def __init__(
        self,
        *,
        package: str,
        manifest: Manifest,
        partial: PartialFile,
        progress: Progress,
        pool: ContentPool,
        check: Callable[[], None],
        landing: Landing,
        on_strike: Callable[[Source, ApplianceError], None],
        on_fetched: Callable[[Source, int], None],
    ) -> None:
        self._package = package
        self._manifest = manifest
        self._partial = partial
        self._progress = progress
        self._pool = pool
        self._check = check
        self._landing = landing
        self._on_strike = on_strike
        self._on_fetched = on_fetched
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._runs: deque[range] = deque(partial.chunks.missing_runs(_run_length(manifest.count)))
        self._in_flight = 0
        self._threads: list[threading.Thread] = []
        self._spawn: Callable[[], None] = lambda: None
        self._waited_s = 0.0  #: for the network, since the number of threads was last thought about
        self._waited_for = 0  #: bytes that came meanwhile
        self._refused: dict[tuple[str, int], int] = {}
        self._error: BaseException | None = None
        progress.chunks = partial.chunks
        progress.chunks_done = len(partial.chunks)
        progress.bytes_done = sum(
            manifest.chunk_size(i) for i in range(manifest.count) if i in partial.chunks
        )

    def run(self, connections: int, spawn: Callable[[Callable[[], None]], threading.Thread]) -> None:
        """Fetch until every chunk is here.

        Args:
            connections: At most so many requests at once.
            spawn: Starts a thread.

        Raises:
            PeerError: No source is left that could give what is missing; the last reason of each is in the message.
            Stopping: The node stops. LeaseLost: the job was taken away. What was verified stays.
            StorageFull: The disk is full.
        """
        most = min(connections, len(self._runs))

        def another() -> None:
            if len(self._threads) + 1 < most:
                self._threads.append(spawn(self._work))

        self._spawn = another
        for _ in self._progress.sources[1:]:
            another()
        if most:
            self._work()
        for thread in self._threads:
            thread.join()
        if self._error is not None:
            raise self._error
        self._landing.finish()
        if not self._partial.chunks.complete:
            raise self._nobody()

    def add_sources(self, sources: Sequence[Source]) -> None:
        """Use more sources from now on."""
        with self._changed:
            known = {source.node for source in self._progress.sources}
            self._progress.sources.extend(source for source in sources if source.node not in known)
            self._changed.notify_all()

    def _work(self) -> None:
        try:
            while (assignment := self._next()) is not None:
                self._fetch(*assignment)
        except BaseException as exc:
            with self._changed:
                self._error = self._error or exc
                self._changed.notify_all()

    def _next(self) -> tuple[range, Source] | None:
        """The next run and who is asked for it; waits while other threads may still give runs back."""
        with self._changed:
            while True:
                if self._error is not None or (not self._runs and not self._in_flight):
                    return None
                if self._runs:
                    source = self._choose(self._runs[0])
                    if source is not None:
                        run = self._runs.popleft()
                        source.busy += 1
                        self._in_flight += 1
                        return run, source
                    if not self._in_flight:
                        return None
                self._changed.wait(0.5)
                self._check()

    def _choose(self, run: range) -> Source | None:
        usable = [source for source in self._progress.sources if source.usable]
        return min(
            usable,
            key=lambda source: (
                sum(self._refused.get((source.node, index), 0) for index in run),
                source.busy,
                source.failures,
                -source.bytes,
            ),
            default=None,
        )

    def _fetch(self, run: range, source: Source) -> None:
        arrived = run.start
        asked = time.monotonic()

        def on_chunk(index: int, data: memoryview) -> memoryview | None:
            nonlocal arrived, asked
            self._waited(time.monotonic() - asked, len(data))
            self._check()
            self._manifest.verify_chunk(index, data)
            size = len(data)
            other = self._landing.take(index, data, lambda: self._count(source, size))
            arrived = index + 1
            asked = time.monotonic()
            return other

        try:
            with self._pool.connection(source.address) as connection:
                connection.fetch(self._package, self._manifest, run, on_chunk)
            source.failures = 0
        except (IntegrityFailure, PeerMisbehaved) as exc:
            self._struck(source, arrived, exc)
        except PeerBusy as exc:
            self._failed(source, exc)
            source.failures += 1
            time.sleep(_BUSY_WAIT_S)
        except PeerRefused as exc:
            self._failed(source, exc)
            source.refused = True
        except PeerError as exc:
            self._failed(source, exc)
            source.failures += 1
        finally:
            with self._changed:
                if arrived < run.stop:
                    self._runs.appendleft(range(arrived, run.stop))
                source.busy -= 1
                self._in_flight -= 1
                self._changed.notify_all()

    def _waited(self, seconds: float, size: int) -> None:
        """Begin another thread if the network is slower than one."""
        with self._lock:
            self._waited_s += seconds
            self._waited_for += size
            if self._waited_s >= _LOOK_S:
                if self._waited_for < _FAST * self._waited_s:
                    self._spawn()
                self._waited_s, self._waited_for = 0.0, 0

    @staticmethod
    def _failed(source: Source, error: PeerError) -> None:
        source.error, source.lacks = error.message, error.details.get("code") in _LACKS

    def _struck(self, source: Source, index: int, error: ApplianceError) -> None:
        source.error = error.message
        source.strikes += 1
        if isinstance(error, ChunkInvalid):
            self._refused[source.node, index] = self._refused.get((source.node, index), 0) + 1
        self._on_strike(source, error)

    def _count(self, source: Source, size: int) -> None:
        with self._lock:
            source.bytes += size
            source.chunks += 1
            self._progress.bytes_done += size
            self._progress.chunks_done += 1
        self._on_fetched(source, size)

    def _nobody(self) -> PeerError:
        asked = [source for source in self._progress.sources if source.error]
        lacking = [source.name for source in asked if source.lacks]
        others = [f"{source.name}: {source.error.rstrip('.')}" for source in asked if not source.lacks]
        if lacking and not others:
            return PeerError(f"None of the nodes that were asked has the file now: {', '.join(lacking)}.")
        if lacking:
            others.append(f"{', '.join(lacking)}: no file there now")
        missing = self._manifest.count - len(self._partial.chunks)
        what = "the missing chunk" if missing == 1 else f"the {missing} missing chunks"
        return PeerError(f"No source can give {what} ({'; '.join(others) or 'there is no source'}).")


def _run_length(chunks: int) -> int:
    return min(max(RUN, chunks // _MANY_RUNS), _LONG_RUN)
