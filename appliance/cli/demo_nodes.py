"""The processes of the demo: nodes on this machine that are started, watched and ended together."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from .client import NodeClient
from .exits import CommandFailed
from .profile import Connection

USER = "admin"
HOST = "127.0.0.1"
_START_S = 60.0
_STOP_S = 20.0
_TAIL = 15


class DemoNode:
    """One node, as a process with a data directory of its own."""

    def __init__(self, name: str, directory: Path, port: int, password: str) -> None:
        self.name = name
        self.url = f"http://{HOST}:{port}"
        self._directory = directory
        self._log = directory / "node.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._port = port
        self._password = password
        self.client = NodeClient(Connection(url=self.url, user=USER, password=password))

    def start(self, environment: Mapping[str, str]) -> None:
        """Start the process; it is not ready yet."""
        self._directory.mkdir(parents=True)
        (self._directory / "ods.yaml").touch()
        own = {name: value for name, value in environment.items() if not name.startswith("ODS_")}
        own |= {
            "ODS_DATA_DIR": str(self._directory / "data"),
            "ODS_HTTP_HOST": HOST,
            "ODS_HTTP_PORT": str(self._port),
            "ODS_NODE_NAME": self.name,
            "ODS_NODE_URL": self.url,
            "ODS_ADMIN_PASSWORD": self._password,
            "ODS_TRANSFERS_MIN_FREE": "0",
            "ODS_REPLICATION_RECONCILE_S": "5",
        }
        command = [sys.executable, "-m", "appliance", "serve", "--config", str(self._directory / "ods.yaml")]
        with self._log.open("wb") as log:
            # A group of its own: Ctrl-C is for us, and we end the nodes in order.
            self._process = subprocess.Popen(  # noqa: S603
                command, env=own, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self, sleep: Callable[[float], None] = time.sleep) -> None:
        """Wait until the node is ready.

        Raises:
            CommandFailed: It ended, or takes too long; the message has the end of its log.
        """
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise CommandFailed(f"Node {self.name} ended at its start.\n{self._tail()}")
            try:
                if self.client.ready()["status"] == "ready":
                    return
            except CommandFailed:
                pass  # it does not listen yet
            sleep(0.1)
        raise CommandFailed(f"Node {self.name} is not ready after {_START_S:.0f} s.\n{self._tail()}")

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-_TAIL:])

    def end(self) -> None:
        """Ask the process to stop."""
        self.client.close()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def reap(self, deadline: float) -> None:
        """Wait until the process is gone; from `deadline` (monotonic seconds) on, kill it."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class DemoNetwork:
    """Nodes in a chain; leaving the block ends them all."""

    def __init__(self, directory: Path, names: tuple[str, ...]) -> None:
        self.password = secrets.token_urlsafe(12)
        ports = free_ports(len(names))
        self.nodes = [
            DemoNode(name, directory / name.lower(), port, self.password)
            for name, port in zip(names, ports, strict=True)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        # A second Ctrl-C must not leave a process behind.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for node in reversed(self.nodes):
                node.end()
            deadline = time.monotonic() + _STOP_S
            for node in self.nodes:
                node.reap(deadline)
        finally:
            signal.signal(signal.SIGINT, before)

    def start(self) -> None:
        """Start all nodes and register each with the one before it.

        Raises:
            CommandFailed: A node does not start or join.
        """
        for node in self.nodes:
            node.start(os.environ)
        for node in self.nodes:
            node.wait()
        for inviter, joiner in zip(self.nodes, self.nodes[1:], strict=False):
            invite = inviter.client.post("/peers/invites", {"expires_in": 600})["invite"]
            joiner.client.post("/peers/join", {"invite": invite})


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address that are free now."""
    sockets = [socket.create_server((HOST, 0)) for _ in range(count)]
    try:
        return [int(sock.getsockname()[1]) for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()
