"""Builds the object graph of a node from its settings. The only room that knows every implementation."""

import socket
from pathlib import Path

from appliance import __version__
from appliance.api.routes import make_application
from appliance.log import AccessLog
from appliance.peering.tls import server_context
from appliance.server import HttpOptions, NodeServer, Part, take_port
from appliance.service.metrics import LoopLag
from appliance.store.blobs import BlobStore
from appliance.store.filesystem import lock_directory
from appliance.store.layout import Layout
from appliance.store.opening import open_store
from config.settings import Settings
from web.routes import ROUTES as PAGES

from .clock import now_ms
from .graph import connect
from .life import Life
from .place import WILDCARDS, Announce, Place, find_place

__all__ = ["build", "find_place", "layout_of", "now_ms"]

STOP_S = 20.0  #: for jobs to come to a point where they can stop


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
    sockets: list[socket.socket] = []
    if serving and settings.http.port == 0:  # the port is part of the URL that everything is made with
        sockets = take_port(settings.http.host, 0)
        http = settings.http.model_copy(update={"port": int(sockets[0].getsockname()[1])})
        settings = settings.model_copy(update={"http": http})
    try:
        return await _build(settings, sockets, serving=serving, announce=announce)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise


async def _build(
    settings: Settings, sockets: list[socket.socket], *, serving: bool, announce: Announce
) -> NodeServer:
    layout = layout_of(settings)
    blobs = BlobStore(layout, floor_bytes=settings.transfers.min_free)
    place = find_place(settings, layout)
    if serving:
        lock_directory(layout.root)
    store = await open_store(settings.database.url, layout.root)
    graph = connect(settings, layout, blobs, place, store, serving=serving)
    metrics, runner, system = graph.app.metrics, graph.app.runner, graph.app.system
    lag = LoopLag(metrics.event_loop_lag_seconds, graph.supervisor)
    life = Life(graph, serving=serving, first_password=settings.admin.password, announce=announce)
    parts = [
        Part(name="store", stop=store.close),
        Part(name="services", start=life.start, stop=life.stop),
        Part(name="lag", start=lag.start, stop=lag.stop),
        Part(name="throughput", start=graph.app.throughput.start, stop=graph.app.throughput.stop),
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
    application = make_application(graph.app, log_function=AccessLog(metrics.observe_request), pages=PAGES)
    return NodeServer(
        application if serving else None,
        options,
        sockets=sockets,
        parts=parts,
        on_drain=system.drain,
        on_ready=lambda: _tell(place, settings, announce) if serving else announce("Worker is running."),
        on_refused=metrics.connections_refused.inc,
    )


def layout_of(settings: Settings) -> Layout:
    """Where the node of these settings keeps its files."""
    return Layout(Path(settings.data_dir).absolute())


def _tell(place: Place, settings: Settings, announce: Announce) -> None:
    announce(f"Open Distribution Server {__version__}: {place.name}")
    announce(f"Node URL:       {place.url}")
    if settings.http.host in WILDCARDS and "127.0.0.1" not in place.url:
        scheme = "https" if settings.http.tls.enabled else "http"
        announce(f"On this machine: {scheme}://127.0.0.1:{settings.http.port}")
    announce(f"Web interface:  {place.url}/ui/")
    announce(f"Downloads:      {place.url}{settings.http.context}/Packages/")
    announce(f"API:            {place.url}/api/v1/docs")
