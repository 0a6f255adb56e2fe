"""Nodes as subprocesses, for benchmarks."""

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PASSWORD = "benchmark-password"
AUTHORIZATION = "Basic " + base64.b64encode(f"admin:{PASSWORD}".encode()).decode()


def free_port() -> int:
    """A port on loopback that is free now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Node:
    """One running node."""

    def __init__(self, directory: Path, name: str, **environment: str) -> None:
        self.name = name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        directory.mkdir(parents=True)
        self.log = directory / "log"
        own = {
            "ODS_DATA_DIR": str(directory / "data"),
            "ODS_HTTP_HOST": "127.0.0.1",
            "ODS_HTTP_PORT": str(self.port),
            "ODS_NODE_NAME": name,
            "ODS_ADMIN_PASSWORD": PASSWORD,
            "ODS_TRANSFERS_MIN_FREE": "0",
            "ODS_LOG_FORMAT": "json",
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "appliance", "serve"],
                env={**os.environ, **own, **environment},
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 30
        while self.status("/health/ready") != 200:
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.process.kill()
                self.process.wait()
                raise RuntimeError(f"{name} does not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.05)

    def status(self, path: str, method: str = "GET") -> int:
        """The status of a request, 0 if nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path)
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()

    def api(self, method: str, path: str, data: Any = None) -> Any:
        """A call of the admin API."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            body = None if data is None else json.dumps(data)
            connection.request(method, "/api/v1" + path, body, {"Authorization": AUTHORIZATION})
            response = connection.getresponse()
            answer = response.read()
            if response.status >= 300:
                raise RuntimeError(f"{method} {path}: {response.status} {answer!r}")
            return json.loads(answer) if answer else None
        finally:
            connection.close()

    def join(self, inviter: "Node") -> None:
        """Register with another node."""
        invite = inviter.api("POST", "/peers/invites", {})["invite"]
        self.api("POST", "/peers/join", {"invite": invite})

    def cpu_s(self) -> float:
        """CPU seconds used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def events(self, action: str) -> list[dict[str, Any]]:
        """Log lines of an action."""
        found = []
        for line in self.log.read_text().splitlines():
            if f'"{action}"' in line:
                found.append(json.loads(line))
        return found

    def stop(self) -> None:
        """End the process."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
