"""What this process counts, in Prometheus' format.

Each label has few values: routes are handler names, peers are registered nodes, reasons are error codes. Figures
that somebody else keeps (packages, free space, running jobs) are asked for when the page is read.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from appliance.jobs.supervisor import Supervisor

log = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_LAG_PERIOD_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where figures come from that others keep. Called in a thread, so each must be safe there and fast."""

    packages: Callable[[], Mapping[str, int]]  #: how many packages by presence
    peers: Callable[[], Mapping[str, int]]  #: how many peers by state
    jobs_running: Callable[[], Mapping[str, int]]  #: how many jobs run by queue
    disk_free: Callable[[], int]  #: bytes
    records_skipped: Callable[[], int]  #: how many stored records break a rule
    trash: Callable[[], tuple[int, int]]  #: how many earlier versions are kept, and their bytes
    scrub: Callable[[], Mapping[str, float]] = dict  #: `_SCRUB` has the names


class Metrics:
    """All counters and gauges of one node."""

    def __init__(self, *, version: str, python: str, database: str) -> None:
        """Make them, at zero.

        Args:
            version: Of the product.
            python: Of the interpreter.
            database: "sqlite" or "mongodb".
        """
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        r = self.registry
        self.http_requests = Counter(
            "ods_http_requests", "Finished requests.", ["method", "status", "route"], registry=r
        )
        self.http_request_seconds = Histogram(
            "ods_http_request_seconds",
            "Time from the first line of a request to the end of its answer.",
            ["route"],
            buckets=(0.005, 0.02, 0.1, 0.5, 2, 10, 60, 600),
            registry=r,
        )
        self.download_bytes = Counter(
            "ods_download_bytes", "Bytes of packages sent to devices and people.", registry=r
        )
        self.upload_bytes = Counter("ods_upload_bytes", "Bytes of packages received by upload.", registry=r)
        self.peer_content_bytes = Counter(
            "ods_peer_content_bytes", "Bytes of packages sent to peers.", registry=r
        )
        self.fetched_bytes = Counter(
            "ods_fetched_bytes", "Verified bytes of packages fetched from peers.", ["peer"], registry=r
        )
        self.chunk_failures = Counter(
            "ods_chunk_failures",
            "Chunks that did not arrive or did not verify.",
            ["peer", "reason"],
            registry=r,
        )
        self.packages_stuck = Gauge(
            "ods_packages_stuck", "Packages that should be here and of which nothing moves.", registry=r
        )
        self.peer_refusals = Counter(
            "ods_peer_refusals", "Requests and records of peers that were refused.", ["reason"], registry=r
        )
        self.comparisons = Counter(
            "ods_comparisons",
            "Comparisons of all records with a peer: equal, fetched (something was missing here), ahead "
            "(something is missing there), failed.",
            ["outcome"],
            registry=r,
        )
        self.records_healed = Counter(
            "ods_records_healed", "Records that were missing here and that a comparison fetched.", registry=r
        )
        self.jobs = Counter("ods_jobs", "Runs of jobs, by how they ended.", ["name", "outcome"], registry=r)
        self.job_seconds = Histogram(
            "ods_job_seconds",
            "How long runs of jobs took.",
            ["name"],
            buckets=(0.01, 0.05, 0.25, 1, 5, 30, 120, 600, 3600),
            registry=r,
        )
        self.event_loop_lag_seconds = Gauge(
            "ods_event_loop_lag_seconds", "How late the event loop was, worst of the last minute.", registry=r
        )
        self.connections_refused = Counter(
            "ods_connections_refused", "Connections closed at once, since too many were open.", registry=r
        )
        self.task_failures = Counter(
            "ods_background_task_failures",
            "Failures of background tasks, which are retried.",
            ["task"],
            registry=r,
        )
        build = {"version": version, "python": python, "database": database}
        Info("ods_build", "What runs here.", registry=r).info(build)
        ProcessCollector(registry=r)

    def watch(self, sources: Sources) -> None:
        """Show figures that others keep; called once."""
        self.registry.register(_Live(sources))

    def observe_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a finished request."""
        known = method if method in _METHODS else "other"
        self.http_requests.labels(known, str(status), route).inc()
        self.http_request_seconds.labels(route).observe(seconds)

    def observe_job(self, name: str, outcome: str, seconds: float) -> None:
        """Count a run of a job; an observer for the job runner."""
        self.jobs.labels(name, outcome).inc()
        self.job_seconds.labels(name).observe(seconds)

    def task_failed(self, task: str) -> None:
        """Count a failure of a background task."""
        self.task_failures.labels(task).inc()

    def fetched(self, peer: str, count: int) -> None:
        """Count verified bytes that came from a peer."""
        self.fetched_bytes.labels(peer).inc(count)

    def chunk_failure(self, peer: str, reason: str) -> None:
        """Count a chunk that a peer failed to give; `reason` is an error code."""
        self.chunk_failures.labels(peer, reason).inc()

    def peer_refused(self, reason: str, count: int = 1) -> None:
        """Count refused requests or records of peers; `reason` is an error code."""
        self.peer_refusals.labels(reason).inc(count)

    def compared(self, outcome: str, fetched: int) -> None:
        """Count a comparison with a peer, and the records that it fetched."""
        self.comparisons.labels(outcome).inc()
        self.records_healed.inc(fetched)

    def downloaded(self, count: int) -> None:
        """Count bytes of packages sent to devices and people."""
        self.download_bytes.inc(count)

    def uploaded(self, count: int) -> None:
        """Count bytes of packages received by upload."""
        self.upload_bytes.inc(count)

    def sent_to_peers(self, count: int) -> None:
        """Count bytes of packages sent to peers."""
        self.peer_content_bytes.inc(count)

    def moved(self) -> tuple[int, int]:
        """Bytes of packages that this process has received and sent so far."""
        received = _total(self.upload_bytes) + _total(self.fetched_bytes)
        return received, _total(self.download_bytes) + _total(self.peer_content_bytes)

    def forget_peer(self, peer: str) -> None:
        """Show no more figures of a peer that left."""
        self.fetched_bytes.remove_by_labels({"peer": peer})
        self.chunk_failures.remove_by_labels({"peer": peer})

    def render(self) -> bytes:
        """The page that Prometheus reads, of type `CONTENT_TYPE`. Reads the disk's state: call it in a thread."""
        return generate_latest(self.registry)


class _Live(Collector):
    """Asks for figures when the page is read."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def describe(self) -> list[Metric]:
        return [*_families(), *(_scrub(name, None) for name in _SCRUB)]

    def collect(self) -> Iterator[Metric]:
        packages, peers, jobs, disk, skipped, versions, trash = _families()
        for family, figures in (
            (packages, self._sources.packages()),
            (peers, self._sources.peers()),
            (jobs, self._sources.jobs_running()),
        ):
            for label, value in figures.items():
                family.add_metric([label], value)
            yield family
        try:
            disk.add_metric([], self._sources.disk_free())
        except OSError as exc:
            # A disk that does not answer must not hide all other figures.
            log.warning("Cannot read the free disk space", extra={"action": "disk_unread", "error": str(exc)})
        yield disk
        skipped.add_metric([], self._sources.records_skipped())
        yield skipped
        for family, value in zip((versions, trash), self._sources.trash(), strict=True):
            family.add_metric([], value)
            yield family
        for name, figure in self._sources.scrub().items():
            yield _scrub(name, figure)


#: figures of the scrub: the metric's name and what it says
_SCRUB: Mapping[str, tuple[str, str]] = {
    "files": ("ods_scrub_files", "Files that were read again and compared with their SHA-256."),
    "bytes": ("ods_scrub_bytes", "Bytes that were read for that."),
    "damaged_files": ("ods_scrub_damaged_files", "Files that were found damaged by it."),
    "damaged_now": ("ods_damaged_files", "Files that are damaged and not repaired."),
    "repaired_now": ("ods_repaired_files", "How often a damaged file was repaired in the last 90 days."),
    "due_files": ("ods_scrub_due_files", "Files that are to be read now."),
    "completed_s": ("ods_scrub_completed_timestamp_seconds", "When all files that were due had been read."),
    "oldest_s": ("ods_scrub_oldest_age_seconds", "Time since the file was verified that waits longest."),
}
_SCRUB_COUNTERS = {"files", "bytes", "damaged_files"}


def _scrub(name: str, value: float | None) -> Metric:
    kind = CounterMetricFamily if name in _SCRUB_COUNTERS else GaugeMetricFamily
    metric, about = _SCRUB[name]
    family: Metric = kind(metric, about, value=value)
    return family


def _families() -> tuple[GaugeMetricFamily, ...]:
    return (
        GaugeMetricFamily("ods_packages", "Packages, by presence on this node.", labels=["presence"]),
        GaugeMetricFamily("ods_peers", "Registered peers, by state.", labels=["state"]),
        GaugeMetricFamily("ods_jobs_running", "Jobs that run in this process.", labels=["queue"]),
        GaugeMetricFamily("ods_disk_free_bytes", "Free bytes on the disk of the packages."),
        GaugeMetricFamily("ods_records_skipped", "Stored records that break a rule and are skipped."),
        GaugeMetricFamily("ods_trash_versions", "Earlier versions of packages that can be restored here."),
        GaugeMetricFamily("ods_trash_bytes", "Bytes that only those versions use."),
    )


class LoopLag:
    """Measures how late the event loop is: what blocks it delays every request."""

    def __init__(self, gauge: Gauge, supervisor: Supervisor) -> None:
        self._gauge = gauge
        self._supervisor = supervisor
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to measure, once a second."""
        self._task = self._supervisor.start("lag", self._measure)

    async def stop(self) -> None:
        """Measure no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _measure(self) -> None:
        worst: list[float] = []
        while True:
            began = time.monotonic()
            await asyncio.sleep(_LAG_PERIOD_S)
            worst = [*worst[-59:], max(0.0, time.monotonic() - began - _LAG_PERIOD_S)]
            self._gauge.set(max(worst))


def _total(counter: Counter) -> int:
    """The sum over all labels."""
    samples = (sample for metric in counter.collect() for sample in metric.samples)
    return round(sum(sample.value for sample in samples if sample.name.endswith("_total")))
