"""Builds the object graph of a node from its settings. The only file that knows every implementation."""

import asyncio
import datetime
import logging
import platform
import random
import secrets
import shutil
import socket
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from appliance import __version__
from appliance.api.app import App
from appliance.api.routes import make_application
from appliance.domain.errors import StoreUnavailable
from appliance.domain.event import EventType
from appliance.domain.job import Job, RetryPolicy
from appliance.domain.node import NodeBody
from appliance.domain.record import Record
from appliance.jobs.context import JobContext
from appliance.jobs.runner import Runner
from appliance.log import AccessLog
from appliance.peering.content import ContentPool
from appliance.peering.identity import Identity
from appliance.peering.records import node_body, record_json
from appliance.peering.tls import fingerprint, make_certificate, server_context
from appliance.server import HttpOptions, NodeServer, Part
from appliance.service.accounts import FIRST, Accounts
from appliance.service.bringing import Bringing
from appliance.service.catalogue import Catalogue
from appliance.service.events import Events
from appliance.service.holdings import FETCH_JOB, Holdings
from appliance.service.intake import Intake
from appliance.service.journal import SYSTEM, entry
from appliance.service.maintenance import PURGE_JOB, Maintenance, purge_job
from appliance.service.metrics import LoopLag, Metrics, Sources
from appliance.service.nonces import Nonces
from appliance.service.packages import VERIFY_JOB, Packages
from appliance.service.peers import Peers
from appliance.service.records import Records
from appliance.service.registration import Registrations
from appliance.service.replication import RECONCILE_JOB, Replication, reconcile_job
from appliance.service.secrets import SecretBox
from appliance.service.system import System
from appliance.service.transfers import Transfers
from appliance.service.uploads import UploadService
from appliance.service.verifying import Verifying
from appliance.store.blobs import BlobStore
from appliance.store.filesystem import lock_directory
from appliance.store.layout import Layout
from appliance.store.opening import open_store
from appliance.store.ports import Store
from config.settings import Settings

log = logging.getLogger(__name__)

CALLS = 16  #: JSON requests to peers at a time
FETCHING = RetryPolicy(attempts=40, base_s=2.0, cap_s=300.0)
ONCE = RetryPolicy(attempts=1)
PURGE_EVERY_S = 600.0
WATCH_S = 0.5
STOP_S = 20.0  #: for jobs to come to a point where they can stop
_WILDCARDS = {"", "0.0.0.0", "::"}  # noqa: S104

Announce = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where this node is, worked out from the settings."""

    name: str
    url: str
    tls_fingerprint: str
    certificate: Path | None
    key: Path | None


def now_ms() -> int:
    """The time, UTC milliseconds."""
    return time.time_ns() // 1_000_000


def find_place(settings: Settings, layout: Layout) -> Place:
    """Work out the node's name, URL and certificate; a self-signed one is made if it is asked for and missing.

    Raises:
        InvalidSettings: The certificate cannot be used.
    """
    http, tls = settings.http, settings.http.tls
    url = settings.node.url
    if not url:
        host = http.host if http.host not in _WILDCARDS else _own_host()
        host = f"[{host}]" if ":" in host else host
        url = f"{'https' if tls.enabled else 'http'}://{host}:{http.port}"
    certificate = key = None
    pinned = ""
    if tls.self_signed:
        certificate, key = layout.identity / "tls.crt", layout.identity / "tls.key"
        if not certificate.exists() or not key.exists():
            make_certificate(
                certificate, key, urlsplit(url).hostname or "", now=datetime.datetime.now(datetime.UTC)
            )
        pinned = fingerprint(certificate)
    elif tls.certificate:
        certificate, key = Path(tls.certificate), Path(tls.key)
    return Place(
        name=settings.node.name or socket.gethostname() or "node",
        url=url,
        tls_fingerprint=pinned,
        certificate=certificate,
        key=key,
    )


def _own_host() -> str:
    host = socket.getfqdn()
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return "127.0.0.1"
    return host if "localhost" not in host and not host.endswith(".arpa") else "127.0.0.1"


async def build(settings: Settings, *, serving: bool, announce: Announce) -> NodeServer:
    """Build a node, or a worker beside one.

    Args:
        settings: What to build.
        serving: Whether it answers HTTP; a worker only runs jobs.
        announce: Shows a line to the person who started it: URLs, and once the first password.

    Raises:
        InvalidSettings: The settings cannot be used on this machine.
        StoreUnavailable: The database does not answer.
    """
    layout = layout_of(settings)
    blobs = BlobStore(layout, floor_bytes=settings.transfers.min_free)
    place = find_place(settings, layout)
    if serving:
        lock_directory(layout.root)
    store = await open_store(settings.database.url, layout.root)
    graph = _connect(settings, layout, blobs, place, store, serving=serving)
    metrics, runner, system = graph.app.metrics, graph.app.runner, graph.app.system
    lag = LoopLag(metrics.event_loop_lag_seconds)
    life = _Life(graph, serving=serving, first_password=settings.admin.password, announce=announce)
    parts = [
        Part(name="store", stop=store.close),
        Part(name="services", start=life.start, stop=life.stop),
        Part(name="lag", start=lag.start, stop=lag.stop),
    ]
    if runner is not None:
        parts.append(Part(name="runner", start=runner.start, stop=lambda: runner.stop(STOP_S), early=True))
    options = HttpOptions(
        host=settings.http.host,
        port=settings.http.port,
        tls=server_context(place.certificate, place.key) if place.certificate and place.key else None,
        max_connections=settings.http.connections,
        trusted_proxies=("127.0.0.1", "::1") if settings.http.trust_proxy else (),
    )
    application = make_application(graph.app, log_function=AccessLog(metrics.observe_request))
    return NodeServer(
        application if serving else None,
        options,
        parts=parts,
        on_drain=system.drain,
        on_ready=lambda: _tell(place, settings, announce) if serving else announce("Worker is running."),
        on_refused=metrics.connections_refused.inc,
    )


def layout_of(settings: Settings) -> Layout:
    """Where the node of these settings keeps its files."""
    return Layout(Path(settings.data_dir).absolute())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Graph:
    """The parts that handlers see, and those that only run."""

    app: App
    maintenance: Maintenance
    pool: ContentPool
    calls: ThreadPoolExecutor


def _connect(
    settings: Settings, layout: Layout, blobs: BlobStore, place: Place, store: Store, *, serving: bool
) -> _Graph:
    """Make every service and tie them together. Nothing runs yet."""
    database = "mongodb" if settings.database.url else "sqlite"
    identity = Identity.load_or_create(layout.identity / "node.key")
    metrics = Metrics(version=__version__, python=platform.python_version(), database=database)
    own = NodeBody(
        name=place.name,
        url=place.url,
        stage=settings.node.stage,
        version=__version__,
        tags_take=settings.node.tags_take,
        tags_refuse=settings.node.tags_refuse,
        context=settings.http.context,
        tls_fingerprint=place.tls_fingerprint,
    )
    node_id, stages, ca_file = identity.node_id, settings.node.stages, settings.http.tls.ca_file
    calls = ThreadPoolExecutor(CALLS, thread_name_prefix="call")
    catalogue = Catalogue(store)
    records = Records(store, identity, now_ms)
    peers = Peers(store=store, identity=identity, ca_file=ca_file, now=now_ms, jitter=random.random)
    holdings = Holdings(
        store=store, records=records, catalogue=catalogue, blobs=blobs, sources=peers,
        stages=stages, node_id=node_id, own=own, now=now_ms,
    )  # fmt: skip
    packages = Packages(
        store=store, records=records, catalogue=catalogue, holdings=holdings,
        stages=stages, node_id=node_id, now=now_ms,
    )  # fmt: skip
    intake = Intake(store=store, records=records, holdings=holdings, node_id=node_id, strike=peers.strike)
    replication = Replication(
        store=store, records=records, catalogue=catalogue, holdings=holdings, intake=intake,
        peers=peers, identity=identity, own=own, calls=calls,
    )  # fmt: skip

    async def joined(peer: str, record: Record) -> None:
        await intake.take(peer, [record_json(record)])
        await replication.joined(peer)

    async def node_changed(record: Record) -> None:
        body = node_body(record)
        await peers.describe(record.id, name=body.name, url=body.url, tls_fingerprint=body.tls_fingerprint)

    intake.on_node = node_changed
    peers.on_up = replication.announced
    registrations = Registrations(
        store=store, identity=identity, peers=peers, box=SecretBox(layout.identity / "secrets.key"),
        url=place.url, tls_fingerprint=place.tls_fingerprint, ca_file=ca_file, calls=calls,
        own_record=replication.own_record, on_joined=joined, now=now_ms,
    )  # fmt: skip
    transfers = Transfers(
        store=store, records=records, catalogue=catalogue, holdings=holdings, blobs=blobs,
        peers=peers, node_id=node_id, now=now_ms,
    )  # fmt: skip
    uploads = UploadService(
        store=store, blobs=blobs, layout=layout, packages=packages, stages=stages,
        default_stage=settings.uploads.stage, max_size=settings.uploads.max_size,
        life_ms=round(settings.uploads.expire_hours * 3_600_000), now=now_ms,
    )  # fmt: skip
    runner = None
    if settings.worker.embedded or not serving:
        runner = _runner(settings, store, metrics, worker_id=_worker_id(node_id, serving=serving))
    system = System(
        store=store, catalogue=catalogue, data_dir=layout.root, min_free_bytes=settings.transfers.min_free,
        version=__version__, database=database, heartbeat_age=runner.heartbeat_age if runner else None,
    )  # fmt: skip
    app = App(
        settings=settings, node_name=place.name, node_url=place.url,
        download_url=place.url + settings.http.context, store=store, identity=identity, blobs=blobs,
        records=records, catalogue=catalogue, holdings=holdings, packages=packages,
        replication=replication, transfers=transfers,
        verifying=Verifying(catalogue=catalogue, blobs=blobs, holdings=holdings), peers=peers,
        uploads=uploads, accounts=Accounts(store, now_ms), events=Events(store), system=system,
        metrics=metrics, registrations=registrations, nonces=Nonces(store, now_ms), runner=runner,
        now=now_ms,
    )  # fmt: skip
    maintenance = Maintenance(
        store=store, records=records, catalogue=catalogue, holdings=holdings,
        uploads=uploads, blobs=blobs, now=now_ms,
    )  # fmt: skip
    graph = _Graph(app=app, maintenance=maintenance, pool=ContentPool(identity, now_ms), calls=calls)
    _watch(graph, layout)
    if runner is not None:
        _register_jobs(graph, runner, layout)
    return graph


def _watch(graph: _Graph, layout: Layout) -> None:
    app, runner = graph.app, graph.app.runner
    app.metrics.watch(
        Sources(
            packages=lambda: Counter(str(package.presence) for package in app.catalogue.all()),
            peers=lambda: Counter(str(peer.state) for peer in app.peers.all()),
            jobs_running=lambda: (
                {name: runner.running(name) for name in ("transfer", "hash", "default")} if runner else {}
            ),
            disk_free=lambda: shutil.disk_usage(layout.root).free,
        )
    )


def _register_jobs(graph: _Graph, runner: Runner, layout: Layout) -> None:
    """Say what each kind of job does, and which come again and again."""
    app = graph.app
    bringing = Bringing(
        store=app.store, layout=layout, blobs=app.blobs, holdings=app.holdings, transfers=app.transfers,
        peers=app.peers, pool=graph.pool, hashing=runner.pool("hash"), metrics=app.metrics,
        connections=app.settings.transfers.connections, now=now_ms,
    )  # fmt: skip

    async def gave_up(job: Job, error: str) -> None:
        await app.transfers.give_up(job.args["package"], error)

    async def reconcile(_job: Job, _context: JobContext) -> None:
        await app.replication.reconcile()

    async def purge(_job: Job, _context: JobContext) -> None:
        await graph.maintenance.purge()

    runner.register(FETCH_JOB, bringing.run, queue="transfer", policy=FETCHING, on_failed=gave_up)
    runner.register(VERIFY_JOB, app.verifying.run, queue="hash", policy=ONCE)
    runner.register(RECONCILE_JOB, reconcile, queue="default", policy=ONCE)
    runner.register(PURGE_JOB, purge, queue="default", policy=ONCE)
    runner.every(app.settings.replication.reconcile_s, lambda: reconcile_job(now_ms()))
    runner.every(PURGE_EVERY_S, lambda: purge_job(now_ms()))


class _Life:
    """What happens to the services when the process starts and stops."""

    def __init__(self, graph: _Graph, *, serving: bool, first_password: str, announce: Announce) -> None:
        self._graph = graph
        self._serving = serving
        self._first_password = first_password
        self._announce = announce
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Read what is kept, bring files and records into line, and begin to follow peers."""
        app = self._graph.app
        if self._serving:
            password = await app.accounts.ensure_first(self._first_password)
            if password:
                self._announce(f"First account:  {FIRST}  password:  {password}  (shown only now)")
        await app.peers.load()
        await app.replication.start()
        if self._serving:
            await app.replication.settle_all()
            await self._graph.maintenance.clean_files()
            started = entry(
                EventType.NODE_STARTED,
                at=now_ms(),
                actor=SYSTEM,
                subject=app.identity.node_id,
                version=__version__,
            )
            await app.store.batch([started])
        self._tasks.append(asyncio.create_task(app.transfers.watch()))
        self._tasks.append(asyncio.create_task(app.peers.follow()))
        self._tasks.append(asyncio.create_task(_follow_other_processes(app.store, app.catalogue)))
        for peer in app.peers.active_ids():
            app.replication.announced(peer)

    async def stop(self) -> None:
        """Let go of tasks, files and connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._graph.app.replication.stop()
        self._graph.app.uploads.close()
        self._graph.pool.close()
        self._graph.calls.shutdown(wait=False, cancel_futures=True)


def _tell(place: Place, settings: Settings, announce: Announce) -> None:
    announce(f"Open Distribution Server {__version__}: {place.name}")
    announce(f"Node URL:       {place.url}")
    if settings.http.host in _WILDCARDS and "127.0.0.1" not in place.url:
        scheme = "https" if settings.http.tls.enabled else "http"
        announce(f"On this machine: {scheme}://127.0.0.1:{settings.http.port}")
    announce(f"Downloads:      {place.url}{settings.http.context}/Packages/")
    announce(f"API:            {place.url}/api/v1/docs")


def _runner(settings: Settings, store: Store, metrics: Metrics, *, worker_id: str) -> Runner:
    worker = settings.worker
    return Runner(
        store,
        worker_id=worker_id,
        transfer_slots=worker.transfer_slots,
        hash_slots=worker.hash_slots,
        default_slots=worker.default_slots,
        lease_s=worker.lease_s,
        now=now_ms,
        jitter=random.random,
        observe=metrics.observe_job,
    )


def _worker_id(node_id: str, *, serving: bool) -> str:
    """A serving process keeps its id, so that its jobs go on at once after a crash; workers have one each."""
    return f"{node_id[:16]}-serve" if serving else f"{node_id[:16]}-{secrets.token_hex(4)}"


async def _follow_other_processes(store: Store, catalogue: Catalogue) -> None:
    """Take over what other processes of this node change in the shared store."""
    seen = -1
    while True:
        await asyncio.sleep(WATCH_S)
        try:
            seen = await store.changed("packages", seen, timeout=3600)
            await catalogue.load()
        except StoreUnavailable:
            continue
