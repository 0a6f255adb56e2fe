"""Every service of a node, made and tied together. Nothing runs yet."""

import asyncio
import platform
import random
import secrets
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from appliance import __version__
from appliance.api.app import App
from appliance.domain.job import QUEUES
from appliance.domain.node import NodeBody
from appliance.domain.record import Record
from appliance.domain.trash import Keeping
from appliance.jobs.runner import Runner
from appliance.jobs.supervisor import Supervisor
from appliance.peering.content import ContentPool
from appliance.peering.records import node_body, record_json
from appliance.service.accounts import Accounts
from appliance.service.anti_entropy import AntiEntropy
from appliance.service.catalogue import Catalogue
from appliance.service.coverage import Coverage
from appliance.service.departures import Departures
from appliance.service.directory import Directory
from appliance.service.events import Events
from appliance.service.folders import Folders
from appliance.service.holdings import FILE_THREADS, Holdings
from appliance.service.intake import Intake
from appliance.service.maintenance import Maintenance
from appliance.service.metrics import Metrics, Sources
from appliance.service.neighbourhood import Neighbourhood
from appliance.service.node_keys import NodeKeys
from appliance.service.nonces import Nonces
from appliance.service.notifications.bodies import Teller
from appliance.service.packages import Packages
from appliance.service.peers import Peers
from appliance.service.probe import Probe
from appliance.service.record_repair import RecordRepair
from appliance.service.records import Records
from appliance.service.registration import Registrations
from appliance.service.release_check import ReleaseCheck
from appliance.service.replication import Replication
from appliance.service.restore import Restore
from appliance.service.scrub import Scrub
from appliance.service.sessions import Sessions
from appliance.service.system import System, write_and_read
from appliance.service.throughput import Throughput
from appliance.service.transfers import Transfers
from appliance.service.trash import Trash
from appliance.service.twin import TwinGuard
from appliance.service.uploads import UploadService
from appliance.service.verified_blobs import VerifiedBlobs
from appliance.service.verifying import Verifying
from appliance.service.vigil import Vigil
from appliance.service.watchdog import Watchdog
from appliance.store.blobs import BlobStore
from appliance.store.layout import Layout
from appliance.store.ports import Store
from config.settings import Settings
from jamf_bridge.bridge import Bridge

from .clock import now_ms
from .jobs import register_jobs
from .notifying import connect_notifications
from .place import Place

CALLS = 16  #: JSON requests to peers at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """The parts that handlers see, and those that only run."""

    app: App
    maintenance: Maintenance
    verified: VerifiedBlobs
    bridge: Bridge
    coverage: Coverage
    vigil: Vigil
    folders: Folders
    record_repair: RecordRepair
    twins: TwinGuard
    pool: ContentPool
    supervisor: Supervisor
    calls: ThreadPoolExecutor  #: threads for requests to peers
    files: ThreadPoolExecutor  #: threads for short looks at files

    async def moved(self, tls_fingerprint: str) -> None:
        """The node has another certificate."""
        self.app.registrations.moved(tls_fingerprint)
        await self.app.replication.moved(tls_fingerprint)


def connect(
    settings: Settings,
    layout: Layout,
    blobs: BlobStore,
    place: Place,
    store: Store,
    keys: NodeKeys,
    *,
    serving: bool,
) -> Graph:
    """Make every service and tie them together. Nothing runs yet."""
    database = "mongodb" if settings.database.url else "sqlite"
    identity, box = keys.identity, keys.box
    metrics = Metrics(version=__version__, python=platform.python_version(), database=database)
    supervisor = Supervisor(now=now_ms, count=metrics.task_failed)
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
    files = ThreadPoolExecutor(FILE_THREADS, thread_name_prefix="files")
    catalogue = Catalogue(store, now=now_ms)
    twins = TwinGuard(store=store, node_id=node_id, now=now_ms)
    records = Records(store, identity, now_ms, check_writing=twins.check)
    peers = Peers(
        store=store, identity=identity, ca_file=ca_file, now=now_ms, jitter=random.random,
        quarantine_ms=round(settings.replication.reconcile_s * 1000),
    )  # fmt: skip
    trash = _trash(settings, store, catalogue, blobs)
    verified = VerifiedBlobs(store=store, blobs=blobs, catalogue=catalogue, now=now_ms)
    holdings = Holdings(
        store=store, records=records, catalogue=catalogue, blobs=blobs, trash=trash, sources=peers,
        stages=stages, max_size=settings.uploads.max_size, node_id=node_id, own=own, now=now_ms, files=files,
        supervisor=supervisor, verified=verified,
    )  # fmt: skip
    verifying = Verifying(
        store=store, catalogue=catalogue, blobs=blobs, holdings=holdings, verified=verified, trash=trash,
        now=now_ms, keep_damaged_ms=round(settings.scrub.keep_damaged_days * 86_400_000),
    )  # fmt: skip
    scrub = Scrub(
        store=store, catalogue=catalogue, blobs=blobs, verified=verified, verifying=verifying, trash=trash,
        metrics=metrics, days=settings.scrub.days, rate=settings.scrub.rate, node_id=node_id, now=now_ms,
    )  # fmt: skip
    packages = Packages(
        store=store, records=records, catalogue=catalogue, holdings=holdings, trash=trash,
        stages=stages, node_id=node_id, now=now_ms, verified=verified,
    )  # fmt: skip
    records.clock_trusted = peers.clock_agrees
    intake = Intake(
        store=store, records=records, holdings=holdings, trash=trash, node_id=node_id, strike=peers.strike,
        refused=metrics.peer_refused, now=now_ms,
    )  # fmt: skip
    replication = Replication(
        store=store, records=records, catalogue=catalogue, holdings=holdings, intake=intake,
        peers=peers, identity=identity, own=own, calls=calls, supervisor=supervisor, twins=twins, now=now_ms,
        speaks=serving, reconcile_s=settings.replication.reconcile_s,
    )  # fmt: skip
    anti_entropy = AntiEntropy(
        store=store, records=records, peers=peers, calls=calls, every_s=settings.replication.digest_s, now=now_ms,
        read=replication.read, take=replication.take_found, observe=metrics.compared,
    )  # fmt: skip
    replication.on_gap = anti_entropy.due

    async def joined(record: Record, by_us: bool) -> None:
        await intake.take(record.id, [record_json(record)])
        await replication.joined(record.id, by_us=by_us)

    async def node_changed(record: Record) -> None:
        if record.deleted:
            await peers.load()  # another process may have heard of it a moment ago
            if peers.is_down(record.id):
                await registrations.left(record.id, by=record.author)
            return
        body = node_body(record)
        await peers.describe(record.id, name=body.name, url=body.url, tls_fingerprint=body.tls_fingerprint)

    intake.on_node = replication.on_node = node_changed
    peers.on_up = replication.returned
    peers.on_left = replication.look
    registrations = Registrations(
        store=store, identity=identity, peers=peers, box=box,
        url=place.url, tls_fingerprint=place.tls_fingerprint, ca_file=ca_file, calls=calls,
        own_record=replication.own_record, on_joined=joined, stages=stages, now=now_ms,
    )  # fmt: skip
    departures = Departures(
        store=store, records=records, holdings=holdings, peers=peers, node_id=node_id, now=now_ms
    )
    transfers = Transfers(
        store=store, records=records, catalogue=catalogue, holdings=holdings,
        peers=peers, node_id=node_id, now=now_ms,
    )  # fmt: skip
    neighbourhood = Neighbourhood(
        peers=peers, transfers=transfers, node_id=node_id, calls=calls, now=now_ms, supervisor=supervisor
    )
    pool = ContentPool(identity, now_ms)
    uploads = UploadService(
        store=store, blobs=blobs, layout=layout, packages=packages, stages=stages,
        default_stage=settings.uploads.stage, max_size=settings.uploads.max_size,
        life_ms=round(settings.uploads.expire_hours * 3_600_000), now=now_ms,
    )  # fmt: skip
    bridge = Bridge(
        store=store, box=box, catalogue=catalogue, holdings=holdings, packages=packages, blobs=blobs,
        uploads=uploads, stages=stages, reading_peers=lambda: replication.reading, now=now_ms,
    )  # fmt: skip
    transfers.pulls, transfers.fits = bridge, blobs.fits
    runner = None
    if settings.worker.embedded or not serving:
        worker_id = _worker_id(node_id, serving=serving)
        runner = _runner(settings, store, metrics, supervisor, worker_id=worker_id)
    folders = Folders(
        layout=layout, blobs=blobs, catalogue=catalogue, on_returned=verifying.look, supervisor=supervisor
    )
    store_probe = Probe(
        lambda: write_and_read(store, secrets.token_hex(8)), silent="The database does not answer."
    )
    system = System(
        store=store, catalogue=catalogue, data_dir=layout.root, min_free_bytes=settings.transfers.min_free,
        version=__version__, database=database, heartbeat_age=runner.heartbeat_age if runner else None,
        supervisor=supervisor, now=now_ms, trash=trash.usage, uploads=uploads.used,
        store_probe=store_probe, folder_faults=folders.faults if serving else None, twin=lambda: twins.reason,
        clock=peers.clock_warning, stuck=blobs.stuck,
    )  # fmt: skip
    directory = Directory(settings.directory, now_ms) if settings.directory.servers else None
    teller = Teller(id=node_id, name=place.name, url=place.url)
    app = App(
        settings=settings, node_name=place.name, node_url=place.url,
        download_url=place.url + settings.http.context, store=store, identity=identity, blobs=blobs,
        records=records, catalogue=catalogue, holdings=holdings, packages=packages,
        replication=replication, anti_entropy=anti_entropy, transfers=transfers,
        verifying=verifying, scrub=scrub, peers=peers,
        trash=trash,
        restore=Restore(
            store=store, catalogue=catalogue, blobs=blobs, holdings=holdings, packages=packages,
            trash=trash, now=now_ms,
        ),
        release_check=ReleaseCheck(
            catalogue=catalogue, holdings=holdings, blobs=blobs, peers=peers, verifying=verifying,
            calls=calls, node_id=node_id,
        ),
        neighbourhood=neighbourhood,
        uploads=uploads, accounts=Accounts(store, now_ms, stages=stages, directory=directory),
        sessions=Sessions(
            store, now_ms, idle_s=settings.web.session_idle_s, life_s=settings.web.session_life_s
        ),
        events=Events(store, now_ms), system=system,
        metrics=metrics, throughput=Throughput(metrics, now_ms, supervisor),
        registrations=registrations, departures=departures, nonces=Nonces(store, now_ms), runner=runner,
        notifications=connect_notifications(settings, store, box, teller, calls), now=now_ms, mdm=bridge,
        directory=directory,
        watchdog=Watchdog(
            store=store, catalogue=catalogue, after_s=settings.replication.stuck_after_s,
            node_id=node_id, now=now_ms,
        ),
    )  # fmt: skip
    maintenance = Maintenance(
        store=store, records=records, catalogue=catalogue, holdings=holdings, trash=trash,
        uploads=uploads, blobs=blobs, now=now_ms,
    )  # fmt: skip
    coverage = Coverage(store=store, records=records, stages=stages, node_id=node_id, now=now_ms)
    vigil = Vigil(
        store=store, data_dir=layout.root, disk_low=settings.notifications.disk_low,
        certificate=place.certificate, node_id=node_id, now=now_ms, trash=trash.usage,
    )  # fmt: skip
    graph = Graph(
        app=app, maintenance=maintenance, verified=verified, bridge=bridge, coverage=coverage, vigil=vigil,
        folders=folders, twins=twins,
        record_repair=RecordRepair(
            store=store, records=records, holdings=holdings, node_id=node_id
        ),
        supervisor=supervisor, pool=pool, calls=calls, files=files,
    )  # fmt: skip
    _watch(graph, layout)
    if runner is not None:
        register_jobs(graph, runner, layout)
    return graph


def _trash(settings: Settings, store: Store, catalogue: Catalogue, blobs: BlobStore) -> Trash:
    keeping = Keeping(days=settings.packages.keep_days, versions=settings.packages.keep_versions)
    trash = Trash(store=store, catalogue=catalogue, blobs=blobs, keeping=keeping, now=now_ms)
    blobs.make_room = trash.ask_for_room(asyncio.get_running_loop())
    return trash


def _watch(graph: Graph, layout: Layout) -> None:
    app, runner = graph.app, graph.app.runner
    app.metrics.watch(
        Sources(
            packages=lambda: Counter(str(package.presence) for package in app.catalogue.all()),
            peers=lambda: Counter(str(peer.state) for peer in app.peers.all()),
            jobs_running=lambda: {name: runner.running(name) for name in QUEUES} if runner else {},
            disk_free=lambda: shutil.disk_usage(layout.root).free,
            records_skipped=lambda: len(app.records.broken),
            trash=lambda: (app.trash.last_usage.versions, app.trash.last_usage.bytes),
            scrub=lambda: app.scrub.figures,
        )
    )


def _runner(
    settings: Settings, store: Store, metrics: Metrics, supervisor: Supervisor, *, worker_id: str
) -> Runner:
    worker = settings.worker
    return Runner(
        store,
        worker_id=worker_id,
        transfer_slots=worker.transfer_slots,
        small_slots=worker.transfer_slots,
        hash_slots=worker.hash_slots,
        default_slots=worker.default_slots,
        delivery_slots=worker.delivery_slots,
        lease_s=worker.lease_s,
        now=now_ms,
        jitter=random.random,
        observe=metrics.observe_job,
        supervisor=supervisor,
    )


def _worker_id(node_id: str, *, serving: bool) -> str:
    """A serving process keeps its id, so that its jobs go on at once after a crash; workers have one each."""
    return f"{node_id[:16]}-serve" if serving else f"{node_id[:16]}-{secrets.token_hex(4)}"
