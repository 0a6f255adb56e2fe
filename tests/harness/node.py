"""One node as a process of its own."""

import base64
import contextlib
import ctypes
import hashlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from prometheus_client.parser import text_string_to_metric_families

from appliance.store.layout import Layout
from tests.ports import free_port

from .curl import CurlAnswer, curl_upload
from .waiting import eventually

PASSWORD = "correct horse battery"
AUTHORIZATION = "Basic " + base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
START_S = 60.0
STOP_S = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]  #: names in lower case
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class ApiError(AssertionError):
    """A call of the admin API was refused."""

    def __init__(self, call: str, answer: Answer) -> None:
        super().__init__(f"{call}: {answer.status} {answer.body[:600]!r}")
        self.status = answer.status
        self.answer = answer

    @property
    def problem(self) -> dict[str, Any]:
        """The problem+json."""
        data: dict[str, Any] = self.answer.json()
        return data


class NodeProcess:
    """A node: its data directory, its port and, while it runs, its process.

    Args:
        directory: Its own; data and log go below it.
        name: The node's name.
        database_url: MongoDB; empty for SQLite.
        url: What peers call, if it is not the node's own address: that of a proxy before it.
        port: Where it listens.
        settings: Further `ODS_...` variables without that prefix, for example `NODE_STAGE="dev"`.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        *,
        database_url: str = "",
        url: str = "",
        port: int = 0,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.directory = directory
        self.data = directory / "data"
        self.layout = Layout(self.data)
        self.log = directory / "log"
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings = {
            "DATA_DIR": str(self.data),
            "HTTP_HOST": "127.0.0.1",
            "HTTP_PORT": str(self.port),
            "NODE_NAME": name,
            "NODE_URL": url or self.url,
            "ADMIN_PASSWORD": PASSWORD,
            "DATABASE_URL": database_url,
            "TRANSFERS_MIN_FREE": "0",
            "REPLICATION_RECONCILE_S": "2",
            "LOG_FORMAT": "json",
            **(settings or {}),
        }
        self.process: subprocess.Popen[bytes] | None = None
        self._id = ""

    # Life

    def environment(self) -> dict[str, str]:
        """The process's environment: ours without any settings of a node, and its own."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ODS_")}
        return inherited | {f"ODS_{name}": value for name, value in self.settings.items() if value}

    def start(self, *, wait: bool = True) -> "NodeProcess":
        """Start it, and wait until it is ready. Call it on the main thread: the node ends with its starter."""
        assert not self.running, f"{self.name} runs already"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "appliance", "serve"],
                env=self.environment(),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,  # noqa: PLW1509
            )
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Wait for `/health/ready`."""

        def ready() -> bool:
            if not self.running:
                raise RuntimeError(f"{self.name} ended at its start:\n{self.tail()}")
            return self.status("/health/ready") == 200

        eventually(ready, START_S, lambda: f"{self.name} is not ready:\n{self.tail()}")

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self.process is not None
        return self.process.pid

    def kill9(self) -> None:
        """Kill it as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ask it to stop, and return its exit code."""
        return self._end(signal.SIGTERM)

    def restart(self) -> "NodeProcess":
        """Stop it if it runs, and start it again."""
        if self.running:
            self.stop()
        return self.start()

    def _end(self, number: signal.Signals) -> int:
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"{self.name} did not stop within {STOP_S:g} s:\n{self.tail()}") from None
        self.process = None
        return code

    def dispose(self) -> None:
        """End it, whatever it does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    # HTTP

    def request(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        anonymous: bool = False,
        chunked: bool = False,
        timeout: float = 60.0,
    ) -> Answer:
        """One request, exactly as given. Raises OSError or HTTPException if the connection does not hold."""
        own = {} if anonymous else {"Authorization": AUTHORIZATION}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        with contextlib.closing(connection):
            if chunked:
                own["Transfer-Encoding"] = "chunked"
            data: Any = iter([body]) if chunked and isinstance(body, bytes) else body
            connection.request(method, path, data, {**own, **(headers or {})}, encode_chunked=chunked)
            response = connection.getresponse()
            read = response.read()
            lowered = {name.lower(): value for name, value in response.headers.items()}
            return Answer(status=response.status, headers=lowered, body=read)

    def status(self, path: str, method: str = "GET") -> int:
        """The status of an anonymous request, 0 if nobody answers."""
        try:
            return self.request(method, path, anonymous=True, timeout=10).status
        except (OSError, http.client.HTTPException):
            return 0

    def api(self, method: str, path: str, data: Any = None) -> Any:
        """A call of the admin API; `path` goes behind `/api/v1`.

        Raises:
            ApiError: The answer is not a success.
        """
        body = None if data is None else json.dumps(data).encode()
        answer = self.request(
            method, "/api/v1" + path, body, {"Content-Type": "application/json"} if body else {}
        )
        if not 200 <= answer.status < 300:
            raise ApiError(f"{self.name}: {method} {path}", answer)
        return answer.json() if answer.body else None

    @property
    def id(self) -> str:
        """The node id."""
        if not self._id:
            self._id = self.api("GET", "/about")["node_id"]
        return self._id

    # Packages

    def upload(self, file: Path, name: str = "", **query: str) -> CurlAnswer:
        """`curl -T` under `name`, by default the file's own, with query parameters; an empty file is meant."""
        if not file.stat().st_size:
            query = {"allow_empty": "true", **query}
        url = f"{self.url}/api/v1/packages/{quote(name or file.name, safe='')}"
        return curl_upload(file, url + (f"?{urlencode(query)}" if query else ""), user=f"admin:{PASSWORD}")

    def publish(self, file: Path, name: str = "", **query: str) -> dict[str, Any]:
        """Upload, and expect success."""
        answer = self.upload(file, name, **query)
        assert answer.status in {200, 201}, f"{self.name}: {answer.status} {answer.body!r}\n{self.tail()}"
        data: dict[str, Any] = answer.json()
        return data

    def package(self, name: str) -> dict[str, Any] | None:
        """What the node says of a package, or None."""
        try:
            data: dict[str, Any] = self.api("GET", f"/packages/{quote(name, safe='')}")
        except ApiError as exc:
            if exc.status == 404:
                return None
            raise
        return data

    def presence(self, name: str) -> str:
        """Whether the node holds a package; "" if it does not know it."""
        package = self.package(name)
        return package["presence"] if package else ""

    def holds(self, name: str, sha256: str) -> bool:
        """Whether the node serves these very bytes under the name."""
        answer = self.head(name)
        return answer.status == 200 and answer.headers["etag"] == f'"{sha256}"'

    def head(self, name: str) -> Answer:
        """HEAD of a download, without signing in."""
        return self.request("HEAD", download_path(name), anonymous=True)

    def download(self, name: str, headers: Mapping[str, str] | None = None) -> Answer:
        """A download, without signing in."""
        return self.request("GET", download_path(name), None, headers, anonymous=True)

    def sha1(self, name: str) -> str:
        """The SHA-1 of what a client downloads."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        digest = hashlib.sha1(usedforsecurity=False)
        with contextlib.closing(connection):
            connection.request("GET", download_path(name))
            response = connection.getresponse()
            assert response.status == 200, f"{self.name}: {response.status} {response.read(500)!r}"
            while block := response.read(1024 * 1024):
                digest.update(block)
        return digest.hexdigest()

    def wait_holds(self, name: str, sha256: str, timeout: float = 60.0) -> None:
        """Wait until the node serves these bytes under the name."""

        def why() -> str:
            return f"{self.name} does not hold {name}: {self.package(name)}\n{self.tail()}"

        eventually(lambda: self.holds(name, sha256), timeout, why)

    # Peers

    def invite(self) -> str:
        """Make an invite."""
        text: str = self.api("POST", "/peers/invites", {})["invite"]
        return text

    def join(self, other: "NodeProcess") -> dict[str, Any]:
        """Register with another node."""
        peer: dict[str, Any] = self.api("POST", "/peers/join", {"invite": other.invite()})
        return peer

    def peer(self, other: "NodeProcess") -> dict[str, Any]:
        """What this node says of a peer."""
        items = self.api("GET", "/peers")["items"]
        return next(item for item in items if item["name"] == other.name)

    def events(self, type: str) -> list[dict[str, Any]]:
        """Events of a type, newest first."""
        items: list[dict[str, Any]] = self.api("GET", f"/events?type={type}&limit=500")["items"]
        return items

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        families = text_string_to_metric_families(self.request("GET", "/metrics").body.decode())
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    # Looking inside

    def log_text(self) -> str:
        """All that it logged."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def tail(self, lines: int = 15) -> str:
        """The end of its log."""
        return "\n".join(self.log_text().splitlines()[-lines:])

    def lines(self, action: str) -> Iterator[dict[str, Any]]:
        """Its log lines of an action."""
        for line in self.log_text().splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and entry.get("action") == action:
                    yield entry

    def rss_peak(self) -> int:
        """Peak resident memory in bytes: VmHWM of proc(5)."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("the system does not tell VmHWM")

    def files(self, directory: str) -> list[str]:
        """Names of files below a directory of the data directory, at any depth."""
        root = self.data / directory
        return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def download_path(name: str) -> str:
    """The path of a package's download."""
    return f"/Packages/{quote(name, safe='')}"


def die_with_parent() -> None:
    """For `preexec_fn`: a test run that is killed must not leave a process behind; only Linux can tell."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG
