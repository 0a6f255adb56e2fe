"""Tornado's HTTP server with a cap on connections and a drain that lets open requests end.

When the cap is reached, the connection that has been idle for longest makes room for a new one: whoever holds many open
and asks nothing must not keep others from asking, health checks among them.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from tornado import httputil, iostream
from tornado.http1connection import HTTP1ServerConnection
from tornado.httpserver import HTTPServer

_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)

_REFUSAL_S = 2.0  #: a client that does not take even the refusal is dropped after this


class Connections(HTTPServer):
    """An `HTTPServer` that knows which of its connections are in the middle of a request."""

    def initialize(  # type: ignore[override]  # Tornado passes the constructor's arguments here
        self,
        request_callback: httputil.HTTPServerConnectionDelegate,
        *,
        max_connections: int,
        on_refused: Callable[[], None],
        **options: Any,
    ) -> None:
        """Take the arguments of `HTTPServer`, and these.

        Args:
            request_callback: The application.
            max_connections: Of more than these the longest idle one is closed; if all are in the middle of a request,
                the new one is answered with 503 and closed.
            on_refused: Called for each that is refused.
            options: For `HTTPServer`.
        """
        super().initialize(request_callback, **options)
        self._max_connections = max_connections
        self._on_refused = on_refused
        self._open: dict[object, bool] = {}  # each connection: whether a request is under way
        self._idle: dict[object, None] = {}  # those without one, the longest idle first
        self._draining = False
        self._changed = asyncio.Event()

    def handle_stream(self, stream: iostream.IOStream, address: tuple[Any, ...]) -> None:
        """Begin to serve a new connection, or refuse it."""
        if len(self._open) >= self._max_connections and self._idle:
            longest = next(iter(self._idle))
            self._close(longest)
            self._forget(longest)  # its end is told later; another one may come before
        if len(self._open) < self._max_connections:
            super().handle_stream(stream, address)
            return
        self._on_refused()
        asyncio.get_running_loop().call_later(_REFUSAL_S, stream.close)
        with contextlib.suppress(iostream.StreamClosedError):
            stream.write(_BUSY).add_done_callback(lambda _: stream.close())

    def start_request(
        self, server_conn: object, request_conn: httputil.HTTPConnection
    ) -> httputil.HTTPMessageDelegate:
        """Tornado waits for the next request of a connection: the one before is finished."""
        self._open[server_conn] = False
        self._idle[server_conn] = None
        self._changed.set()
        if self._draining:
            asyncio.get_running_loop().call_soon(self._close, server_conn)
        return _Watched(super().start_request(server_conn, request_conn), lambda: self._begin(server_conn))

    def on_close(self, server_conn: object) -> None:
        """Forget a connection that has ended."""
        super().on_close(server_conn)
        self._forget(server_conn)
        self._changed.set()

    async def drain(self, grace_s: float) -> int:
        """Close idle connections at once, others when their request is finished; `stop` comes before.

        Args:
            grace_s: After so many seconds the rest is closed as well.

        Returns:
            How many requests were cut off.
        """
        self._draining = True
        self.conn_params.no_keep_alive = True
        for connection, busy in list(self._open.items()):
            if not busy:
                self._close(connection)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                while self._open:
                    self._changed.clear()
                    await self._changed.wait()
        cut = sum(self._open.values())
        await self.close_all_connections()
        return cut

    def _begin(self, server_conn: object) -> None:
        if server_conn in self._open:
            self._open[server_conn] = True
            self._idle.pop(server_conn, None)

    def _forget(self, server_conn: object) -> None:
        self._open.pop(server_conn, None)
        self._idle.pop(server_conn, None)

    def _close(self, server_conn: object) -> None:
        if isinstance(server_conn, HTTP1ServerConnection) and not self._open.get(server_conn, True):
            server_conn.stream.close()


class _Watched(httputil.HTTPMessageDelegate):
    """Passes a request on to its delegate, and tells when its headers are in."""

    def __init__(self, inner: httputil.HTTPMessageDelegate, began: Callable[[], None]) -> None:
        self._began = began
        self._inner = inner
        # Straight through: these two are called for each block of a large upload.
        self.data_received = inner.data_received  # type: ignore[method-assign]
        self.finish = inner.finish  # type: ignore[method-assign]

    def headers_received(
        self,
        start_line: httputil.RequestStartLine | httputil.ResponseStartLine,
        headers: httputil.HTTPHeaders,
    ) -> Awaitable[None] | None:
        self._began()
        return self._inner.headers_received(start_line, headers)

    def on_connection_close(self) -> None:
        self._inner.on_connection_close()
