"""The state of this node as a whole: disk, memory, age, versions, counts; and whether it is ready."""

import asyncio
import logging
import os
import platform
import secrets
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from appliance.domain.errors import OUTAGES, StorageError, StoreDamaged, StoreMoved
from appliance.domain.job import QUEUES
from appliance.domain.package import Presence
from appliance.domain.sizes import human_size
from appliance.domain.states import JobState, PeerState, TransferState
from appliance.jobs.supervisor import Failing, Supervisor
from appliance.store.filesystem import storage_error
from appliance.store.ports import Store

from .catalogue import Catalogue
from .damaged import damaged_words
from .probe import Probe
from .trash import Usage

log = logging.getLogger(__name__)

PING_TIMEOUT_S = 2.0
HEARTBEAT_LIMIT_S = 15.0
UNCLAIMED_MS = 60_000  #: a job that is due for so long while none runs: there is no worker
LEAST_FREE = 1024 * 1024  #: bytes: with less than this a disk is full, whatever the floor is
_PROBE_BYTES = 4096
_READY_FOR_S = 1.0  #: an answer is good for so long: the page is open, and must not load the database


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """The disk of the packages, in bytes."""

    total: int
    free: int
    floor: int  #: never less free than this by our doing
    used_by_packages: int
    trash: int  #: of earlier versions that can be restored; they make room by themselves
    uploads: int  #: of uploads that are not complete


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemReport:
    """What `GET /system` tells."""

    version: str
    uptime_s: float
    disk: Disk
    memory_rss: int | None  #: bytes of resident memory; None where the system does not tell
    python: str
    database: str
    counts: dict[str, int | None]  #: by thing; None for what the database could not tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One condition of being ready."""

    ok: bool
    reason: str = ""  #: a sentence, if not ok


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether this node is ready, and why not."""

    ready: bool
    checks: dict[str, Check]
    warnings: tuple[str, ...] = ()  #: sentences about what does not work; uploads and transfers go on


class System:
    """Looks at the node as a whole."""

    def __init__(
        self,
        *,
        store: Store,
        catalogue: Catalogue,
        data_dir: Path,
        min_free_bytes: int,
        version: str,
        database: str,
        heartbeat_age: Callable[[], float] | None,
        supervisor: Supervisor,
        now: Callable[[], int],
        trash: Callable[[], Awaitable[Usage]],
        uploads: Callable[[], int],
        store_probe: Probe | None = None,
        folder_faults: Callable[[], Sequence[str]] | None = None,
        twin: Callable[[], str] = lambda: "",
        clock: Callable[[], str] = lambda: "",
        stuck: Callable[[], int] = lambda: 0,
    ) -> None:
        """Make a view.

        Args:
            store: Pinged and counted.
            catalogue: The packages.
            data_dir: Where the bytes are.
            min_free_bytes: The floor of free space.
            version: Of the product.
            database: "sqlite" or "mongodb".
            heartbeat_age: Seconds since the job runner last came round; None if another process runs the jobs.
            supervisor: Knows which background tasks of this process fail.
            now: UTC milliseconds.
            trash: What the trash holds.
            uploads: Bytes of uploads that are not complete; looks at the disk, and so blocks.
            store_probe: Writes to the database and reads that; None to leave it at a ping.
            folder_faults: A sentence for each directory of the data directory that cannot be used.
            twin: Why another process with this node's identity keeps it from writing; "" if none does.
            clock: What is wrong with this node's clock, as far as peers tell; "" if nothing is.
            stuck: How many files could not be deleted or moved.
        """
        self._stuck = stuck
        self._trash = trash
        self._uploads = uploads
        self._store_probe = store_probe
        self._folder_faults = folder_faults
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="probe")  # of its own: a disk may hang
        self._disk_probe = Probe(self._write_to_disk, silent="The disk does not answer.")
        self._twin = twin
        self._clock = clock
        self._store = store
        self._catalogue = catalogue
        self._data_dir = data_dir
        self._floor = min_free_bytes
        self._version = version
        self._database = database
        self._heartbeat_age = heartbeat_age
        self._supervisor = supervisor
        self._now = now
        self._began = time.monotonic()
        self._stopping = asyncio.Event()
        self._wrong: dict[str, str] = {}
        self._checking = asyncio.Lock()
        self._checked: tuple[float, Readiness] | None = None

    @property
    def draining(self) -> bool:
        """Whether the node stops."""
        return self._stopping.is_set()

    async def stopping(self) -> None:
        """Return when the node begins to stop: whoever only waits for news lets go then."""
        await self._stopping.wait()

    def drain(self) -> None:
        """From now on, not ready: the node stops."""
        self._stopping.set()
        self._checked = None

    def close(self) -> None:
        """Let go of the thread."""
        self._thread.shutdown(wait=False)

    async def ready(self) -> Readiness:
        """Check the store, the disk and the worker; at most once a second, whoever asks."""
        async with self._checking:
            if self._checked is None or time.monotonic() - self._checked[0] > _READY_FOR_S:
                readiness = await self._check()
                self._tell(readiness)
                self._checked = (time.monotonic(), readiness)
            return self._checked[1]

    def _tell(self, readiness: Readiness) -> None:
        """One line when it changes what is wrong."""
        wrong = {name: check.reason for name, check in readiness.checks.items() if not check.ok}
        if wrong.keys() == self._wrong.keys():
            return
        self._wrong = wrong
        if wrong:
            log.warning("the node is not ready", extra={"action": "not_ready", "checks": wrong})
        else:
            log.info("the node is ready", extra={"action": "ready"})

    async def report(self) -> SystemReport:
        """Everything for the system page. Counts that need a database which is down are None."""
        usage = await asyncio.to_thread(shutil.disk_usage, self._data_dir)
        packages = [package for package in self._catalogue.all() if not package.withdrawn]
        held = {package.held_sha256: package.body.size for package in packages if package.held_sha256}
        counts: dict[str, int | None] = {
            "packages": len(packages),
            "held": sum(package.presence is Presence.HELD for package in packages),
        }
        for name, collection, where in (
            ("peers", "peers", {"state": str(PeerState.ACTIVE)}),
            ("transfers_failed", "transfers", {"state": str(TransferState.FAILED)}),
            ("jobs_waiting", "jobs", {"state": str(JobState.TODO)}),
            ("jobs_running", "jobs", {"state": str(JobState.DOING)}),
            ("jobs_failed", "jobs", {"state": str(JobState.FAILED)}),
        ):
            try:
                counts[name] = await asyncio.wait_for(self._store.count(collection, where), PING_TIMEOUT_S)
            except (*OUTAGES, TimeoutError):
                counts[name] = None
        trash = Usage()
        try:
            trash = await asyncio.wait_for(self._trash(), PING_TIMEOUT_S)
            counts["versions"] = trash.versions
        except (*OUTAGES, TimeoutError):
            counts["versions"] = None
        return SystemReport(
            version=self._version,
            uptime_s=round(time.monotonic() - self._began, 1),
            disk=Disk(
                total=usage.total,
                free=usage.free,
                floor=self._floor,
                used_by_packages=sum(held.values()),
                trash=trash.bytes,
                uploads=await asyncio.to_thread(self._uploads),
            ),
            memory_rss=resident_bytes(),
            python=platform.python_version(),
            database=self._database,
            counts=counts,
        )

    async def _check(self) -> Readiness:
        store, disk, worker = await asyncio.gather(
            self._check_store(), self._check_disk(), self._check_worker()
        )
        faults = self._folder_faults() if self._folder_faults is not None else ()
        checks = {
            "store": store,
            "disk": disk,
            **({"folders": Check(ok=not faults, reason=" ".join(faults))} if self._folder_faults else {}),
            "worker": worker,
            "twin": Check(ok=not self._twin(), reason=self._twin()),
            "serving": Check(ok=not self.draining, reason="The node is stopping." if self.draining else ""),
        }
        return Readiness(
            ready=all(check.ok for check in checks.values()),
            checks=checks,
            warnings=(
                *filter(
                    None, [damaged_words(self._catalogue, named=False), self._clock(), self._stuck_words()]
                ),
                *(
                    f"The background task {task} keeps failing; the log says why."
                    for task in dict.fromkeys(found.task for found in self.failing() if found.persistent)
                ),
            ),
        )

    def _stuck_words(self) -> str:
        count = self._stuck()
        files = "1 file" if count == 1 else f"{count} files"
        return f"{files} cannot be deleted or moved; the log says which, and why." if count else ""

    def failing(self) -> list[Failing]:
        """Background tasks of this process that do not do their work now."""
        return self._supervisor.failing()

    async def _check_store(self) -> Check:
        try:
            await asyncio.wait_for(self._store.ping(), PING_TIMEOUT_S)
        except (StoreDamaged, StoreMoved) as exc:
            return Check(ok=False, reason=exc.message)
        except (*OUTAGES, TimeoutError):
            return Check(ok=False, reason="The database does not answer.")
        reason = await self._store_probe.ask() if self._store_probe is not None else ""
        return Check(ok=not reason, reason=reason)

    async def _check_disk(self) -> Check:
        try:
            usage = await asyncio.wait_for(
                asyncio.get_running_loop().run_in_executor(self._thread, shutil.disk_usage, self._data_dir),
                PING_TIMEOUT_S,
            )
        except OSError:
            return Check(ok=False, reason="The data directory cannot be read.")
        except TimeoutError:
            return Check(ok=False, reason="The disk does not answer.")
        if usage.free < max(LEAST_FREE, self._floor):
            floor = f"{human_size(self._floor)} have to stay free (transfers.min_free)"
            reason = f"Only {human_size(usage.free)} of disk space are free, and {floor}."
            return Check(ok=False, reason="The disk is full." if usage.free < LEAST_FREE else reason)
        reason = await self._disk_probe.ask()
        return Check(ok=not reason, reason=reason)

    async def _write_to_disk(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._write_file)

    def _write_file(self) -> None:
        """Write, make durable and delete a small file: what every upload and transfer does.

        Raises:
            StorageError: That does not work.
        """
        path = self._data_dir / f".probe-{os.getpid()}"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                os.write(descriptor, secrets.token_bytes(_PROBE_BYTES))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
                path.unlink(missing_ok=True)
        except OSError as exc:
            raise storage_error(exc) from exc

    async def _check_worker(self) -> Check:
        if self._heartbeat_age is not None:
            if self._heartbeat_age() > HEARTBEAT_LIMIT_S:
                return Check(ok=False, reason="The worker has taken no jobs for a while.")
            return Check(ok=True)
        try:
            idle = await asyncio.wait_for(self._jobs_lie_idle(), PING_TIMEOUT_S)
        except (*OUTAGES, TimeoutError):
            return Check(ok=True)  # nothing is known; the store's own check says why
        reason = "Jobs have waited for a minute and none runs: is `ods worker` running?" if idle else ""
        return Check(ok=not idle, reason=reason)

    async def _jobs_lie_idle(self) -> bool:
        """Whether jobs are due and nobody takes any, seen from a process that runs none itself."""
        now, late = self._now(), 0
        for queue in QUEUES:
            if await self._store.count(
                "jobs", {"queue": queue, "state": str(JobState.DOING), "lease_until": {"gt": now}}
            ):
                return False
            late += await self._store.count(
                "jobs", {"queue": queue, "state": str(JobState.TODO), "run_at": {"lt": now - UNCLAIMED_MS}}
            )
        return late > 0


PROBE = "probe"


async def write_and_read(store: Store, token: str) -> None:
    """Write to the database and read that back.

    Raises:
        StorageError: That does not work.
    """
    written = await store.replace("node", {"_id": PROBE, "token": token})
    found = await store.get("node", PROBE)
    if found is None or found["_rev"] < written["_rev"]:  # another process may have written since
        raise StorageError("The database does not give back what was written to it.")


def resident_bytes() -> int | None:
    """The resident memory of this process in bytes, or None where the system does not tell.

    Linux tells the present figure (proc(5)), other Unix systems the highest so far, Windows neither without
    calls into its own libraries.
    """
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415  # there is none on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
