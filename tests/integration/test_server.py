"""Start order, listening, drain and signals, with real sockets on loopback."""

import asyncio
import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import tornado.web

from appliance.api.connections import Connections
from appliance.domain.errors import InvalidSettings, StorageError
from appliance.server import HttpOptions, NodeServer, Part

LOOPBACK = "127.0.0.1"


class Site:
    """A server with one slow and one quick page, and what happened in which order."""

    def __init__(self, **options: Any) -> None:
        self.events: list[str] = []
        self.release = asyncio.Event()
        self.refused = 0
        site = self

        class Quick(tornado.web.RequestHandler):
            def get(self) -> None:
                self.write("quick")

        class Slow(tornado.web.RequestHandler):
            async def get(self) -> None:
                site.events.append("slow began")
                await site.release.wait()
                site.events.append("slow ended")
                self.write("slow")

        @tornado.web.stream_request_body
        class Upload(tornado.web.RequestHandler):
            size = 0

            def data_received(self, chunk: bytes) -> None:
                self.size += len(chunk)

            def prepare(self) -> None:
                site.events.append("upload began")
                self.request.connection.set_max_body_size(1 << 30)  # type: ignore[union-attr]

            def put(self) -> None:
                self.write(str(self.size))

        grace_s = options.pop("grace_s", 5.0)
        parts = options.pop("parts", None)
        self.server = NodeServer(
            tornado.web.Application(
                [("/quick", Quick), ("/slow", Slow), ("/upload", Upload)], log_function=lambda handler: None
            ),
            HttpOptions(**{"host": LOOPBACK, "port": 0, **options}),
            parts=parts if parts is not None else [self.part("store"), self.part("runner", early=True)],
            on_drain=lambda: self.events.append("drain"),
            on_ready=lambda: self.events.append("ready"),
            on_refused=self._refuse,
            grace_s=grace_s,
        )

    @property
    def connections(self) -> Connections:
        assert self.server._connections is not None
        return self.server._connections

    def part(self, name: str, *, early: bool = False) -> Part:
        async def start() -> None:
            self.events.append(f"{name} started")

        async def stop() -> None:
            self.events.append(f"{name} stopped")

        return Part(name=name, start=start, stop=stop, early=early)

    def _refuse(self) -> None:
        self.refused += 1

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(LOOPBACK, self.port, timeout=10)

    async def get(self, path: str) -> tuple[int, bytes]:
        def fetch() -> tuple[int, bytes]:
            connection = self.connect()
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                return answer.status, answer.read()
            finally:
                connection.close()

        return await asyncio.to_thread(fetch)

    async def open(self) -> "asyncio.Task[None]":
        self.server.bind()
        self.port = self.server.port
        running = asyncio.create_task(self.server.run())
        await eventually(lambda: "ready" in self.events or running.done())
        return running


async def eventually(condition: Callable[[], bool], timeout: float = 10.0) -> None:
    end = asyncio.get_running_loop().time() + timeout
    while not condition():
        assert asyncio.get_running_loop().time() < end, "it did not happen in time"
        await asyncio.sleep(0.005)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 30))


def test_parts_start_in_order_and_stop_in_reverse_around_the_requests() -> None:
    async def test() -> None:
        site = Site()
        running = await site.open()
        slow = asyncio.create_task(site.get("/slow"))
        await eventually(lambda: "slow began" in site.events)
        site.server.request_stop()
        await eventually(lambda: "runner stopped" in site.events)
        assert not running.done()
        with pytest.raises(ConnectionRefusedError):
            await site.get("/quick")
        site.release.set()
        assert await slow == (200, b"slow")
        await running
        assert site.events == [
            "store started",
            "runner started",
            "ready",
            "slow began",
            "drain",
            "runner stopped",
            "slow ended",
            "store stopped",
        ]

    run(test)


def test_idle_connections_do_not_hold_up_the_stop() -> None:
    async def test() -> None:
        site = Site(grace_s=20)
        running = await site.open()
        idle = site.connect()
        await asyncio.to_thread(idle.request, "GET", "/quick")
        assert (await asyncio.to_thread(idle.getresponse)).read() == b"quick"
        silent = await asyncio.to_thread(socket.create_connection, (LOOPBACK, site.port))
        site.server.request_stop()
        await asyncio.wait_for(running, 3)
        assert await asyncio.to_thread(silent.recv, 1) == b""
        silent.close()
        idle.close()
        assert site.events[-1] == "store stopped"

    run(test)


def test_a_request_without_end_is_cut_off_after_the_grace() -> None:
    async def test() -> None:
        site = Site(grace_s=0.2)
        running = await site.open()
        slow = asyncio.create_task(site.get("/slow"))
        await eventually(lambda: "slow began" in site.events)
        site.server.request_stop()
        await running
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            await slow
        assert site.events[-1] == "store stopped"
        site.release.set()
        await eventually(lambda: "slow ended" in site.events)

    run(test)


def test_an_upload_under_way_may_finish_during_the_drain() -> None:
    async def test() -> None:
        site = Site()
        running = await site.open()
        sock = await asyncio.to_thread(socket.create_connection, (LOOPBACK, site.port))
        head = b"PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n"
        await asyncio.to_thread(sock.sendall, head + b"x" * 1_000_000)
        await eventually(lambda: "upload began" in site.events)
        site.server.request_stop()
        await eventually(lambda: "runner stopped" in site.events)
        await asyncio.to_thread(sock.sendall, b"x" * 1_000_000)
        answer = b""
        while part := await asyncio.to_thread(sock.recv, 4096):
            answer += part
        sock.close()
        assert answer.endswith(b"2000000")
        await running

    run(test)


def test_a_keep_alive_connection_is_closed_after_its_request_during_the_drain() -> None:
    async def test() -> None:
        site = Site()
        running = await site.open()
        connection = site.connect()
        await asyncio.to_thread(connection.request, "GET", "/slow")
        await eventually(lambda: "slow began" in site.events)
        site.server.request_stop()
        await eventually(lambda: "drain" in site.events)
        site.release.set()
        assert (await asyncio.to_thread(connection.getresponse)).read() == b"slow"
        await asyncio.wait_for(running, 3)  # although the client keeps its end open
        connection.close()

    run(test)


def test_more_connections_than_the_cap_are_refused_until_one_ends() -> None:
    async def test() -> None:
        site = Site(max_connections=2)
        running = await site.open()
        held = [asyncio.create_task(site.get("/slow")) for _ in range(2)]
        await eventually(lambda: site.events.count("slow began") == 2)
        extra = await asyncio.to_thread(socket.create_connection, (LOOPBACK, site.port))
        assert (await asyncio.to_thread(extra.recv, 4096)).startswith(b"HTTP/1.1 503 ")
        assert await asyncio.to_thread(extra.recv, 4096) == b""
        extra.close()
        assert site.refused == 1
        site.release.set()
        assert await asyncio.gather(*held) == [(200, b"slow")] * 2
        assert await site.get("/quick") == (200, b"quick")
        site.server.request_stop()
        await running

    run(test)


def test_of_too_many_idle_connections_the_longest_idle_makes_room() -> None:
    async def test() -> None:
        site = Site(max_connections=4)
        running = await site.open()
        slow = asyncio.create_task(site.get("/slow"))
        await eventually(lambda: "slow began" in site.events)
        silent = []
        for count in range(2, 5):
            silent.append(await asyncio.to_thread(socket.create_connection, (LOOPBACK, site.port)))
            await eventually(lambda count=count: len(site.connections._open) == count)  # type: ignore[misc]
        kept = site.connect()  # takes the place of the first
        await asyncio.to_thread(kept.request, "GET", "/quick")
        assert (await asyncio.to_thread(kept.getresponse)).read() == b"quick"
        assert await asyncio.to_thread(silent[0].recv, 1) == b""
        for _ in range(8):
            assert await site.get("/quick") == (200, b"quick")
        assert site.refused == 0
        site.release.set()
        assert await slow == (200, b"slow"), "a request under way is never ended for another"
        for sock in silent:
            sock.close()
        kept.close()
        site.server.request_stop()
        await running

    run(test)


def test_a_client_that_sends_no_headers_is_dropped() -> None:
    async def test() -> None:
        site = Site(idle_timeout_s=0.1)
        running = await site.open()
        sock = await asyncio.to_thread(socket.create_connection, (LOOPBACK, site.port), 10)
        await asyncio.to_thread(sock.sendall, b"GET /quick HTTP/1.1\r\nHost:")
        assert await asyncio.to_thread(sock.recv, 4096) == b""
        sock.close()
        site.server.request_stop()
        await running

    run(test)


def test_a_port_in_use_is_one_sentence_and_starts_nothing() -> None:
    async def test() -> None:
        with socket.create_server((LOOPBACK, 0)) as taken:
            site = Site(port=taken.getsockname()[1])
            with pytest.raises(InvalidSettings, match=r"another program uses it.*http\.port"):
                await site.server.run()
            assert site.events == []

    run(test)


def test_without_a_host_both_families_listen_on_one_port() -> None:
    async def test() -> None:
        site = Site(host="")
        running = await site.open()
        assert await site.get("/quick") == (200, b"quick")
        if socket.has_ipv6:
            with socket.create_connection(("::1", site.port), timeout=5):
                pass
        site.server.request_stop()
        await running

    run(test)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may take any port")
def test_a_privileged_port_is_one_sentence() -> None:
    async def test() -> None:
        with pytest.raises(InvalidSettings, match="need a privilege"):
            Site(port=81).server.bind()

    run(test)


def test_a_foreign_address_is_one_sentence() -> None:
    async def test() -> None:
        with pytest.raises(InvalidSettings, match=r"does not have that address.*http\.host"):
            Site(host="192.0.2.1").server.bind()

    run(test)


def test_when_a_part_cannot_start_those_before_it_are_stopped() -> None:
    async def test() -> None:
        async def broken() -> None:
            raise StorageError("The disk is gone.")

        site = Site(parts=[])
        site.server = NodeServer(
            None,
            parts=[
                site.part("store"),
                site.part("runner", early=True),
                Part(name="broken", start=broken),
                site.part("after"),
            ],
        )
        with pytest.raises(StorageError):
            await site.server.run()
        assert site.events == ["store started", "runner started", "runner stopped", "store stopped"]

    run(test)


def test_connections_pass_tornados_own_arguments_on() -> None:
    async def test() -> None:
        app = tornado.web.Application()
        got = Connections(app, max_connections=1, on_refused=lambda: None, max_body_size=7, chunk_size=99)
        assert (got.conn_params.max_body_size, got.read_chunk_size) == (7, 99)

    run(test)


_PROCESS = """
import asyncio, sys, threading, time
import tornado.web
from appliance.server import HttpOptions, NodeServer, Part, serve

def say(text):
    print(text, flush=True)

async def build():
    async def stop():
        say("stopping")
        if "hang" in sys.argv:
            await asyncio.sleep(60)
        if "thread" in sys.argv:
            threading.Thread(target=time.sleep, args=(60,)).start()
    server = NodeServer(
        tornado.web.Application(), HttpOptions(host="127.0.0.1", port=int(sys.argv[1])),
        parts=[Part(name="p", stop=stop, early=True)], on_ready=lambda: say("ready"))
    return server

sys.exit(serve(build))
"""


def process(port: int, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", _PROCESS, str(port), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("words", [[], ["thread"]])
def test_a_signal_stops_the_process_with_code_0(number: int, words: list[str]) -> None:
    with process(0, *words) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(number)
        out, err = child.communicate(timeout=15)
    assert (child.returncode, out) == (0, "stopping\n")
    assert "Traceback" not in err


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
def test_a_second_signal_ends_the_process_at_once() -> None:
    with process(0, "hang") as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGTERM)
        assert child.stdout.readline() == "stopping\n"
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=5)
    assert child.returncode == 128 + signal.SIGTERM


def test_a_start_that_fails_is_one_line_and_code_1() -> None:
    with socket.create_server((LOOPBACK, 0)) as taken, process(taken.getsockname()[1]) as child:
        out, err = child.communicate(timeout=15)
    assert (child.returncode, out) == (1, "")
    assert err.startswith("ods: Cannot listen on port")
    assert len(err.splitlines()) == 1
