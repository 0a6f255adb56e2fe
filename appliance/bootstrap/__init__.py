"""Builds the object graph of a node from its settings. The only room that knows every implementation."""

import socket
from pathlib import Path

from appliance import __version__
from appliance.api.starting import Starting, make_starting_application
from appliance.server import HttpOptions, NodeServer, take_port
from appliance.store.layout import Layout
from config.settings import Settings

from .clock import now_ms
from .place import WILDCARDS, Announce, Place, find_place
from .startup import Startup

__all__ = ["Place", "build", "find_place", "layout_of", "now_ms"]


async def build(settings: Settings, *, serving: bool, announce: Announce) -> NodeServer:
    """Build a node, or a worker beside one. What has to be waited for is built when it runs.

    Args:
        settings: What to build.
        serving: Whether it answers HTTP; a worker only runs jobs.
        announce: Shows a line to the person who started it: URLs, and once the first password.

    Raises:
        InvalidSettings: The settings cannot be used on this machine.
    """
    sockets: list[socket.socket] = []
    if serving and settings.http.port == 0:  # the port is part of the URL that everything is made with
        sockets = take_port(settings.http.host, 0)
        http = settings.http.model_copy(update={"port": int(sockets[0].getsockname()[1])})
        settings = settings.model_copy(update={"http": http})
    try:
        return _build(settings, sockets, serving=serving, announce=announce)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise


def _build(
    settings: Settings, sockets: list[socket.socket], *, serving: bool, announce: Announce
) -> NodeServer:
    layout = layout_of(settings)
    place = find_place(settings, layout)
    starting = Starting(settings=settings, layout=layout)
    startup = Startup(settings, layout, place, starting, serving=serving, announce=announce)
    options = HttpOptions(
        host=settings.http.host,
        port=settings.http.port,
        tls=place.tls,
        max_connections=settings.http.connections,
        trusted_proxies=("127.0.0.1", "::1") if settings.http.trust_proxy else (),
    )
    return NodeServer(
        make_starting_application(starting) if serving else None,
        options,
        sockets=sockets,
        parts=[],
        assemble=startup.assemble,
        on_drain=startup.drain,
        on_ready=lambda: _tell(place, settings, announce) if serving else announce("Worker is running."),
        on_refused=startup.refused,
        on_reload=startup.reload,
        grace_s=settings.server.grace_s,
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
