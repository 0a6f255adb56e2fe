"""The process: start order, listening, signals, drain and stop order.

Start: take the port, so that a second server fails before it touches anything; then the parts, in order; then
accept connections. What has to be waited for (a database that is away, a full disk) is waited for in `assemble`, which
makes the application and its parts; when it waits, or takes longer than `PATIENCE_S`, connections are accepted early,
and another application answers them. Until then they wait in the kernel's queue: a usual start shows no error.
Stop, at SIGTERM or SIGINT, also in the middle of the start: accept no more and tell the load balancer; let open
requests end while the early parts (the job runner) stop; close what is left after `grace_s`; then the parts, in
reverse. Whatever hangs, the process ends `STOP_SLACK_S` later: what was acknowledged is on the disk, the rest resumes.
A second signal ends the process at once. SIGHUP reads the certificate again.
"""

import asyncio
import errno
import gc
import logging
import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass, replace
from typing import TypeVar

import tornado.web

from appliance.api.connections import Connections
from appliance.domain.errors import ApplianceError, InvalidSettings

log = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_FAILED = 1
BACKLOG = 1024  #: connections that the kernel keeps waiting
OPEN_FILES = 65_536  #: wanted; a node holds a socket and a file for each download
_JOIN_S = 1.0
_TELL_S = 0.3
PATIENCE_S = 10.0  #: a start may take so long before somebody else answers
STOP_SLACK_S = 1.0  #: beyond the grace, the process ends itself
GC_THRESHOLD = 20_000  #: objects made since the last look for cycles; Python's own 700 costs 3 % of the work

Hook = Callable[[], Awaitable[object]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Something that is started and stopped with the process."""

    name: str
    start: Hook | None = None
    stop: Hook | None = None
    early: bool = False  #: stopped while open requests are still answered, instead of after them


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """What answers once everything is there, and the parts that it stands on."""

    application: tornado.web.Application | None
    parts: Sequence[Part]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions:
    """How Tornado listens."""

    host: str = "0.0.0.0"  #: an address or name; "" for all addresses of IPv4 and IPv6  # noqa: S104
    port: int = 8080  #: 0 for any free one
    tls: ssl.SSLContext | None = None
    max_connections: int = 2_000
    idle_timeout_s: float = 75.0  #: for the headers of the next request
    body_timeout_s: float = 60.0  #: for a whole body; handlers of large ones raise it with `set_body_timeout`
    max_header_bytes: int = 65_536
    max_body_bytes: int = 1_048_576  #: handlers of large bodies raise it with `set_max_body_size`
    chunk_bytes: int = (
        262_144  #: read at once; measured: 1 MiB costs a fifth more CPU an upload than 64 or 256 KiB
    )
    trusted_proxies: tuple[str, ...] = ()  #: whose X-Forwarded-For and X-Forwarded-Proto are believed


class NodeServer:
    """Runs a Tornado application, or none, with the parts that it stands on."""

    def __init__(
        self,
        application: tornado.web.Application | None,
        options: HttpOptions = HttpOptions(),
        *,
        sockets: Sequence[socket.socket] = (),
        parts: Sequence[Part],
        on_drain: Callable[[], None] = lambda: None,
        on_ready: Callable[[], None] = lambda: None,
        on_refused: Callable[[], None] = lambda: None,
        assemble: Callable[[Callable[[], None]], Awaitable[Assembled]] | None = None,
        on_reload: Callable[[], Awaitable[ssl.SSLContext | None]] | None = None,
        grace_s: float = 8.0,
    ) -> None:
        """Make a server.

        Args:
            application: What answers, with `assemble` until that is done; None for a process that only works.
            options: How it listens.
            sockets: Those of `take_port`, if the port is taken already.
            parts: Started in this order.
            assemble: Makes the real application and the parts, instead of `parts`, however long that takes. It is given
                a function to call when it has to wait: then `application` answers meanwhile.
            on_reload: Called at SIGHUP; returns what to serve TLS with from now on, or None.
            on_drain: Called when the stop begins: turn readiness red.
            on_ready: Called when connections are accepted.
            on_refused: Called for each connection beyond the cap.
            grace_s: How long open requests may go on after the stop began, in seconds.
        """
        self._application = application
        self._options = options
        self._parts = parts
        self._on_drain = on_drain
        self._on_ready = on_ready
        self._on_refused = on_refused
        self._assemble = assemble
        self._on_reload = on_reload
        self._reloading: asyncio.Task[None] | None = None
        self._connections: Connections | None = None
        self.grace_s = grace_s
        self._sockets = list(sockets)
        self._stop = asyncio.Event()

    @property
    def port(self) -> int:
        """The port that was taken by `bind`."""
        return int(self._sockets[0].getsockname()[1])

    def bind(self) -> None:
        """Take the port; connections wait until `run` accepts them.

        Raises:
            InvalidSettings: It cannot be taken; the message says why and which setting to change.
        """
        self._sockets = take_port(self._options.host, self._options.port)

    def request_stop(self) -> None:
        """Stop as if by a signal; to be called on the event loop."""
        self._stop.set()

    def request_reload(self) -> None:
        """Read certificates again, for connections from now on; to be called on the event loop."""
        if self._on_reload is not None and (self._reloading is None or self._reloading.done()):
            self._reloading = asyncio.create_task(self._reload(self._on_reload))

    async def _reload(self, on_reload: Callable[[], Awaitable[ssl.SSLContext | None]]) -> None:
        context = await on_reload()
        if context is not None:
            self._options = replace(self._options, tls=context)
            if self._connections is not None:
                self._connections.ssl_options = context

    async def run(self) -> None:
        """Start everything, serve until a stop is requested, stop everything.

        Raises:
            ApplianceError: A part could not start; those before it have been stopped.
        """
        if self._application is not None and not self._sockets:
            self.bind()
        async with AsyncExitStack() as late:
            late.callback(self._close_sockets)
            early: list[Part] = []
            try:
                parts, application = self._parts, self._application
                if self._assemble is not None:
                    late.push_async_callback(self._close_connections)
                    patience = asyncio.get_running_loop().call_later(PATIENCE_S, self._answer_early)
                    late.callback(patience.cancel)
                    assembled = await self._unless_stopped(self._assemble(self._answer_early))
                    patience.cancel()
                    if assembled is not None:
                        parts, application = assembled.parts, assembled.application
                for part in parts:
                    await self._start(part, early, late)
                if self._connections is None and not self._stop.is_set():
                    self._connections = self._accept(application)
                elif self._connections is not None and application is not None:
                    self._connections.request_callback = application
                if not self._stop.is_set():
                    _keep_what_was_made()
                    self._on_ready()
                await self._stop.wait()
                log.info("The node stops", extra={"action": "stopping"})
                self._on_drain()
                ends = await asyncio.gather(self._drain(), self._stop_early(early), return_exceptions=True)
                for end in ends:
                    if end is not None:
                        raise end
            except BaseException:
                await self._stop_early(early)
                raise

    @staticmethod
    async def _start(part: Part, early: list[Part], late: AsyncExitStack) -> None:
        if part.start is not None:
            await part.start()
        if part.early:
            early.insert(0, part)
        elif part.stop is not None:
            late.push_async_callback(part.stop)

    async def _unless_stopped(self, work: Awaitable[T]) -> T | None:
        """What `work` returns, or None if a stop is requested before: it is cancelled then."""
        working = asyncio.ensure_future(work)
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            if not working.done():
                working.cancel()
                await asyncio.wait({working})
        return None if working.cancelled() else working.result()

    def _answer_early(self) -> None:
        if self._connections is None:
            self._connections = self._accept(self._application)

    def _accept(self, application: tornado.web.Application | None) -> Connections | None:
        if application is None:
            return None
        options = self._options
        raise_open_files(OPEN_FILES)
        connections = Connections(
            application,
            max_connections=options.max_connections,
            on_refused=self._on_refused,
            ssl_options=options.tls,
            xheaders=bool(options.trusted_proxies),
            trusted_downstream=list(options.trusted_proxies),
            idle_connection_timeout=options.idle_timeout_s,
            body_timeout=options.body_timeout_s,
            max_header_size=options.max_header_bytes,
            max_body_size=options.max_body_bytes,
            chunk_size=options.chunk_bytes,
        )
        port = self.port
        connections.add_sockets(self._sockets)
        self._sockets = []
        log.info(
            "The node accepts connections",
            extra={"action": "listening", "host": options.host, "port": port, "tls": options.tls is not None},
        )
        return connections

    async def _drain(self) -> None:
        if self._connections is None:
            return
        self._connections.stop()
        cut = await self._connections.drain(self.grace_s)
        if cut:
            log.warning("Open requests were cut off", extra={"action": "connections_cut", "count": cut})

    async def _close_connections(self) -> None:
        if self._connections is not None:  # the start failed while connections were open
            self._connections.stop()
            await self._connections.close_all_connections()

    async def _stop_early(self, parts: list[Part]) -> None:
        while parts:
            part = parts.pop(0)
            if part.stop is not None:
                await part.stop()

    def _close_sockets(self) -> None:
        for sock in self._sockets:
            sock.close()
        self._sockets = []


def serve(build: Callable[[], Awaitable[NodeServer]]) -> int:
    """Run a node as this process until a signal ends it; return the exit code.

    What went wrong at the start is one line on standard error.

    Args:
        build: Makes the server, on the event loop that it will run on.
    """
    code = EXIT_OK
    ignore_hangup()
    try:
        asyncio.run(_serve(build))
    except ApplianceError as exc:
        log.debug("The node cannot start", exc_info=exc, extra={"action": "start_failed"})
        _say(exc.message)
        code = EXIT_FAILED
    except OSError as exc:  # the data directory, mostly
        log.debug("The node cannot start", exc_info=exc, extra={"action": "start_failed"})
        _say(f"{exc.strerror or exc}{f': {exc.filename}' if exc.filename else ''}")
        code = EXIT_FAILED
    except KeyboardInterrupt:  # before the signal handlers were in place
        code = 128 + signal.SIGINT
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    deadline = time.monotonic() + _JOIN_S
    for thread in others:
        if not thread.daemon:
            thread.join(max(0.0, deadline - time.monotonic()))
    if any(thread.is_alive() and not thread.daemon for thread in others):
        # A job that did not stop in time. Its lease ends, and its verified bytes are on the disk.
        _exit_now(code)
    return code


def _keep_what_was_made() -> None:
    # It lives as long as the process, and what is made from now on is mostly freed by its count.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


def ignore_hangup() -> None:
    """Let SIGHUP do nothing until somebody handles it: it asks for certificates to be read again, never for an end."""
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


async def _serve(build: Callable[[], Awaitable[NodeServer]]) -> None:
    server = await build()
    loop = asyncio.get_running_loop()
    signalled = False

    def on_signal(number: int) -> None:
        nonlocal signalled
        if signalled:
            _exit_now(128 + number)
        signalled = True
        # Whatever hangs, the process does not: containers are killed after 10 seconds.
        watchdog = threading.Timer(server.grace_s + STOP_SLACK_S, _cut_off)
        watchdog.daemon = True
        watchdog.start()
        server.request_stop()

    for name in ("SIGTERM", "SIGINT", "SIGBREAK"):
        number = getattr(signal, name, None)
        if number is None:
            continue
        try:
            loop.add_signal_handler(number, on_signal, number)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda got, _frame: loop.call_soon_threadsafe(on_signal, got))
    if hasattr(signal, "SIGHUP"):
        loop.add_signal_handler(signal.SIGHUP, server.request_reload)
    try:
        await server.run()
    finally:
        if hasattr(signal, "SIGHUP"):
            loop.remove_signal_handler(signal.SIGHUP)  # else the end of the loop would let it kill
            ignore_hangup()


def _cut_off() -> None:
    text = "What did not end in time was cut off; it resumes after the next start"
    # In a thread of its own: whoever reads the log may hang as well.
    telling = threading.Thread(
        target=log.warning, args=(text,), kwargs={"extra": {"action": "stop_cut"}}, daemon=True
    )
    telling.start()
    telling.join(_TELL_S)
    os._exit(EXIT_OK)


def _say(text: str) -> None:
    with suppress(OSError):
        sys.stderr.write(f"ods: {text}\n")


def take_port(host: str, port: int) -> list[socket.socket]:
    """As `listen`.

    Raises:
        InvalidSettings: The port cannot be taken; the message says why and which setting to change.
    """
    try:
        return listen(host, port)
    except socket.gaierror as exc:
        raise InvalidSettings(f'The host "{host}" (http.host) is not known: {exc.strerror}.') from exc
    except OSError as exc:
        raise InvalidSettings(_why_not(exc, host, port)) from exc


def listen(host: str, port: int) -> list[socket.socket]:
    """Open listening sockets on every address of `host`, all with one port.

    Args:
        host: An address or name; "" for every address of IPv4 and IPv6.
        port: 0 for any free one.

    Raises:
        OSError: One of them cannot be opened; none is left open.
    """
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    with ExitStack() as undo:
        for family, _, _, _, address in dict.fromkeys(found):
            if family == socket.AF_INET6 and not socket.has_ipv6:
                continue
            # Both families take the port that the first one was given.
            where = (address[0], sockets[0].getsockname()[1] if sockets else port, *address[2:])
            try:
                sock = socket.create_server(where, family=family, backlog=BACKLOG)
            except OSError as exc:
                if exc.errno == errno.EAFNOSUPPORT and len(found) > 1:
                    continue  # a kernel without IPv6 still resolves its addresses
                raise
            undo.callback(sock.close)
            sock.setblocking(False)
            sockets.append(sock)
        undo.pop_all()
    return sockets


def raise_open_files(wanted: int) -> None:
    """Raise this process's limit of open files as far as the system lets it, up to `wanted`."""
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415  # there is none on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < target:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
        except (ValueError, OSError) as exc:
            log.info("Cannot raise the limit of open files", extra={"action": "nofile", "error": str(exc)})


def _why_not(exc: OSError, host: str, port: int) -> str:
    where = f'port {port} on "{host or "*"}"'
    match exc.errno:
        case errno.EADDRINUSE:
            return f"Cannot listen on {where}: another program uses it. Stop that, or set http.port."
        case errno.EACCES | errno.EPERM:
            return f"Cannot listen on {where}: ports below 1024 need a privilege. Set http.port."
        case errno.EADDRNOTAVAIL:
            return f"Cannot listen on {where}: this machine does not have that address. Set http.host."
    return f"Cannot listen on {where}: {exc.strerror}."


def _exit_now(code: int) -> None:
    with suppress(OSError, ValueError):  # whoever reads it is gone, or its disk is full
        sys.stdout.flush()
    logging.shutdown()
    os._exit(code)
