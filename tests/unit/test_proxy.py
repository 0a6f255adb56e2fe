"""The proxy of the tests: what it does to one answer leaves the next one alone."""

import contextlib
import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.fakes.proxy import Proxy, Reply, Request

SIZE = 4 * 1024 * 1024  #: more than sockets hold


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b"prod" * (SIZE // 4) if self.path == "/large" else self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        proxy = Proxy(server.server_port).start()
        try:
            yield proxy
        finally:
            proxy.stop()
            server.shutdown()


@pytest.mark.parametrize("read", [0, 1], ids=["not read", "begun"])
def test_a_replaced_body_does_not_run_into_the_next_answer(proxy: Proxy, read: int) -> None:
    def meddle(request: Request, reply: Reply) -> None:
        if request.path == "/large":
            for _ in range(read):
                next(iter(reply.body))
            reply.put(b"a page")

    proxy.meddle = meddle
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)) as client:
        client.connect()
        kept = client.sock
        for path, body in [("/large", b"a page"), ("/next", b"/next")] * 3:
            client.request("GET", path)
            answer = client.getresponse()
            assert (answer.status, answer.read()) == (200, body)
            assert client.sock is kept, "the connection is kept"
