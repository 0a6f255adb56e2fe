"""A receiver of webhooks: a real HTTP server on loopback that verifies, refuses, hangs and lies as it is told."""

import json
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from standardwebhooks import Webhook

Behave = Callable[["Handler"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One request, whatever was answered."""

    path: str
    headers: dict[str, str]  #: names in lower case
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def json(self) -> Any:
        return json.loads(self.body)

    def verify(self, secret: str) -> Any:
        """The JSON, if the published library accepts the signature."""
        return Webhook(secret).verify(self.body, self.headers)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        body = self.rfile.read(length)
        if len(body) < length:  # the sender was killed in the middle of it
            self.close_connection = True
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        owner = self.server.owner
        owner.received.append(Received(path=self.path, headers=headers, body=body))
        owner.behave(self)

    def do_GET(self) -> None:
        self.server.owner.fetched.append(self.path)
        self.answer(200)

    def answer(self, status: int, body: bytes = b"ok", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    owner: "Receiver"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # the sender hung up


@dataclass
class Receiver:
    """Listens while the block lasts. `behave` decides about each POST; by default it answers 200."""

    certificate: Path | None = None
    key: Path | None = None
    received: list[Received] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)
    behave: Behave = lambda handler: handler.answer(200)

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.owner = self
        if self.certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate, self.key)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        scheme = "http" if self.certificate is None else "https"
        return f"{scheme}://localhost:{self.port}/hook/T0PSECRET"

    @property
    def ids(self) -> list[str]:
        return [each.id for each in self.received]


def answers(status: int, body: bytes = b"no", **headers: str) -> Behave:
    """Always the same answer."""
    return lambda handler: handler.answer(status, body, **headers)


def hangs_until(event: threading.Event) -> Behave:
    """No answer until the event is set."""

    def behave(handler: Handler) -> None:
        event.wait(60)
        handler.close_connection = True

    return behave


def drips(handler: Handler) -> None:
    """A header line that never ends, a byte at a time."""
    try:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while True:
            handler.wfile.write(b"x")
            threading.Event().wait(0.05)
    except OSError:
        handler.close_connection = True


def closes(handler: Handler) -> None:
    """Nothing but the end of the connection."""
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True
