"""The nodes of a run, what stands between them, and how everything is made whole again when the steps are done."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from appliance.store.layout import Layout
from tests.fakes.mongod import Mongod
from tests.fakes.proxy import Proxy
from tests.harness.node import Answer
from tests.harness.zygote import ForkedNode, Zygote
from tests.ports import free_port

from .ledger import Ledger
from .plan import DISK, Plan

RECONCILE_S = 1
CALL_S = 8.0  #: a request that takes longer is given up: its node stands still
CONNECT_S = 60.0
COMMAND_S = 120.0  #: a command that takes longer hangs
STOP_S = 20.0  #: of a machine that does nothing else
FILLER = "filler"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A node as it was once."""

    directory: Path  #: `data` as it was, or of it only `identity` and `blobs`, beside `site.tar`
    exported: bool  #: whether the metadata are in `site.tar`
    at: float  #: monotonic seconds when it was begun


class World:
    """Starts the nodes of a plan; leaving the block ends all of them."""

    def __init__(self, plan: Plan, root: Path, zygote: Zygote, mongod: Mongod) -> None:
        self.plan = plan
        self.root = root
        self.ledger = Ledger()
        self.backups: dict[int, Backup] = {}
        self._looked_at: set[tuple[int, str, str]] = set()  #: node, file name and SHA-256
        self.proxies: dict[int, Proxy] = {}
        self.disks: dict[int, Path] = {}
        self._mongod = mongod
        self._zygote = zygote
        self._ends: list[tuple[threading.Timer, Callable[[], None]]] = []
        self._due: list[tuple[float, Callable[[], None]]] = []
        self.nodes = [self._node(index) for index in range(len(plan.nodes))]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for timer, _ in self._ends:
            timer.cancel()
        for node in self.nodes:
            node.dispose()
        for proxy in self.proxies.values():
            proxy.stop()
        for disk in self.disks.values():
            subprocess.run(["umount", "-l", str(disk)], check=True)
        self._mongod.drop(f"live{self._run}")

    def _node(self, index: int) -> ForkedNode:
        traits = self.plan.nodes[index]
        directory = self.root / traits.name
        port, url = free_port(), ""
        if traits.proxied:
            self.proxies[index] = proxy = Proxy(port).start()
            url = proxy.url
        settings = {
            "NODE_STAGE": traits.stage,
            "NODE_TAGS_REFUSE": traits.refuse,
            "REPLICATION_RECONCILE_S": str(RECONCILE_S),
            "WORKER_LEASE_S": "3",
            "NOTIFICATIONS_DISK_LOW": "0",
        }
        node = ForkedNode(
            self._zygote, directory, traits.name, workers=traits.workers, url=url, port=port,
            database_url=self.new_database() if traits.mongo else "", settings=settings,
        )  # fmt: skip
        if traits.small_disk:
            disk = directory / "disk"
            disk.mkdir()
            command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(disk)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if not done.returncode:
                self.disks[index] = disk
                node.data = disk / "data"
                node.layout = Layout(node.data)
                node.settings["DATA_DIR"] = str(node.data)
            elif os.environ.get("CI") == "true":  # elsewhere the node has all the room of its machine
                raise RuntimeError(f"{traits.name} has no small disk: {done.stderr.strip()}")
        return node

    _run = ""

    def new_database(self) -> str:
        """The URL of a database that is empty."""
        self._run = self._run or uuid.uuid4().hex[:8]
        return self._mongod.url(f"live{self._run}{uuid.uuid4().hex[:4]}")

    # Nodes

    def start_all(self) -> None:
        """Start all nodes at once, the first time."""
        for node in self.nodes:
            node.start_serving()
        for node in self.nodes:
            node.wait_ready()
            node.start_workers()
            node.id  # noqa: B018  # asked for while it certainly answers

    def call(
        self, node: int, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> Answer | None:
        """A request to the admin API of a node; None if it does not answer."""
        headers = {"Content-Type": kind} if body is not None else {}
        try:
            return self.nodes[node].request(method, "/api/v1" + path, body, headers, timeout=CALL_S)
        except (OSError, HTTPException):
            return None

    def items(self, node: int, path: str) -> list[dict[str, Any]]:
        """All items of a list of the admin API; none if the node does not answer."""
        answer = self.call(node, "GET", path)
        return answer.json()["items"] if answer is not None and answer.status == 200 else []

    def index(self, id: str) -> int:
        """Which node has this id; -1 for none of ours."""
        return next((index for index, node in enumerate(self.nodes) if node.id == id), -1)

    def peers(self, node: int) -> list[int]:
        """The active peers of a node, as it sees them."""
        found = (self.index(peer["id"]) for peer in self.items(node, "/peers") if peer["state"] == "active")
        return sorted(index for index in found if index >= 0)

    def join(self, node: int, other: int) -> str:
        """Let a node join another; answers what came of it."""
        invite = self.call(other, "POST", "/peers/invites", b"{}")
        if invite is None or invite.status != 201:
            return f"no invite: {invite and invite.status}"
        text = invite.json()["invite"]
        answer = self.call(node, "POST", "/peers/join", f'{{"invite": "{text}"}}'.encode())
        if answer is not None and answer.status == 201:
            return "joined"
        return f"not joined: {answer and answer.body[:200]!r}"

    def start(self, node: int) -> None:
        """Start what does not run of a node, without waiting."""
        process = self.nodes[node]
        if not process.running:
            process.start_serving()
        process.start_workers()

    def kill(self, node: int) -> None:
        """Kill a node as a crash would."""
        self.notice_ends()
        self.nodes[node].kill9()

    def stop(self, node: int) -> None:
        """Ask a node to stop, and wait until it has."""
        self.notice_ends()
        began = time.monotonic()
        try:
            code = self.nodes[node].stop()
        except (AssertionError, subprocess.TimeoutExpired) as exc:
            self.ledger.fault(f"{self.nodes[node].name} did not stop: {str(exc)[:300]}")
            self.nodes[node].dispose()
            return
        took = time.monotonic() - began
        if code not in {0, -15}:  # -15: it was told before it listened to signals
            self.ledger.fault(f"{self.nodes[node].name} ended with {code} when it was asked to stop")
        if took > STOP_S and took * processor_share() > STOP_S:
            self.ledger.fault(f"{self.nodes[node].name} took {took:.0f} s to stop")

    def notice_ends(self) -> None:
        """Note processes that ended although nobody ended them, and start them again as systemd would."""
        for index, node in enumerate(self.nodes):
            ended = [process for process in node.processes() if process.poll() is not None]
            if ended:
                codes = ", ".join(str(process.poll()) for process in ended)
                full = " on a full disk" if self.is_full(index) else ""
                last = node.tail(1)[:300]
                self.ledger.fault(f"a process of {node.name} ended by itself{full} with {codes}: {last}")
                if node.process is not None and node.process.poll() is not None:
                    node.process = None
                node.workers = [None if w is None or w.poll() is not None else w for w in node.workers]
                if not self.is_full(index):
                    self.start(index)

    def blobs(self, node: int) -> dict[str, Path]:
        """The files of held bytes by SHA-256."""
        root = self.nodes[node].layout.blobs
        return {path.name: path for path in sorted(root.glob("??/*")) if len(path.name) == 64}

    # What ends by itself

    def later(self, span_s: float, end: Callable[[], None]) -> None:
        """Do something after a while, in a thread of its own, or when the steps are done."""
        timer = threading.Timer(span_s, end)
        timer.daemon = True
        self._ends.append((timer, end))
        timer.start()

    def due(self, span_s: float, end: Callable[[], None]) -> None:
        """Do something after a while between two steps, or when the steps are done."""
        self._due.append((time.monotonic() + span_s, end))

    def tick(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        due = [end for at, end in self._due if at <= now]
        self._due = [(at, end) for at, end in self._due if at > now]
        for end in due:
            end()
        self.notice_ends()

    # Disks

    def is_full(self, node: int) -> bool:
        """Whether the disk of a node is filled."""
        return node in self.disks and (self.disks[node] / FILLER).exists()

    def fill(self, node: int) -> None:
        """Leave no room on the disk of a node. Without a buffer, whose rest would not fit when the file is closed."""
        with contextlib.suppress(OSError), (self.disks[node] / FILLER).open("wb", buffering=0) as file:
            while True:
                file.write(bytes(64 * 1024))

    def clear(self, node: int) -> None:
        """Make room again."""
        (self.disks[node] / FILLER).unlink(missing_ok=True)

    # Backups

    def back_up(self, node: int, *, export: bool) -> str:
        """Copy a stopped node's folder; or export it, the documented way and the only one for MongoDB."""
        process, traits = self.nodes[node], self.plan.nodes[node]
        directory = self.root / "backups" / f"{traits.name}-{uuid.uuid4().hex[:4]}"
        directory.mkdir(parents=True)
        at = time.monotonic()
        exported = export or traits.mongo
        if exported:
            if why := self._command(process, "export", str(directory / "site.tar")):
                return f"not exported: {why}: {process.tail(1)}"
        else:
            self.stop(node)
        shutil.copytree(process.layout.identity, directory / "identity")
        copy_blobs(process.layout.blobs, directory / "blobs")
        if not exported:
            for file in process.data.glob("ods.sqlite3*"):
                shutil.copy2(file, directory)
            self.start(node)
        self.backups[node] = Backup(directory=directory, exported=exported, at=at)
        return "exported" if exported else "copied"

    def restore(self, node: int, *, blobs: bool) -> str:
        """Put a node back to its last backup, with or without its bytes, and start it."""
        backup, process = self.backups[node], self.nodes[node]
        self.kill(node) if process.running else process.dispose()
        before = set(self.blobs(node))
        self.ledger.rollbacks.append((node, backup.at, time.monotonic()))
        shutil.rmtree(process.data)
        process.data.mkdir()
        shutil.copytree(backup.directory / "identity", process.layout.identity)
        if blobs:
            shutil.copytree(backup.directory / "blobs", process.layout.blobs)
        self.ledger.endangered |= before - set(self.blobs(node))
        if backup.exported:
            if self.plan.nodes[node].mongo:
                process.settings["DATABASE_URL"] = self.new_database()
            if why := self._command(process, "import", str(backup.directory / "site.tar")):
                self.ledger.fault(f"{process.name}: the import {why}: {process.tail(3)}")
        else:
            for file in backup.directory.glob("ods.sqlite3*"):
                shutil.copy2(file, process.data)
        self.start(node)
        return f"restored from {'an export' if backup.exported else 'a copy'}{'' if blobs else ', no blobs'}"

    @staticmethod
    def _command(node: ForkedNode, *arguments: str) -> str:
        """Run a command with a node's settings; what is wrong with its end, "" if nothing."""
        process = node.command(*arguments)
        try:
            code = process.wait(COMMAND_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return f"did not end within {COMMAND_S:g} s"
        return f"ended with {code}" if code else ""

    # The end

    def mend(self) -> None:
        """End what was begun, start what is down, have looked at what was broken, and connect all nodes.

        The rule speaks of nodes that run and are connected, and of what a node has looked at.
        """
        for timer, end in self._ends:
            timer.cancel()
            timer.join()
            end()
        self._ends.clear()
        for _, end in self._due:
            end()
        self._due.clear()
        for proxy in self.proxies.values():
            proxy.be_honest()
        for index in range(len(self.nodes)):
            self.notice_ends()
            self.start(index)
        for node in self.nodes:
            try:
                node.wait_ready()
            except (RuntimeError, AssertionError) as exc:
                why = self._unready(node)
                self.ledger.fault(f"{node.name} does not become ready: {why} {str(exc)[:300]}")
        self.look_at_damage()
        self._connect()

    def _unready(self, node: ForkedNode) -> str:
        with contextlib.suppress(OSError, HTTPException):
            return node.request("GET", "/health/ready", anonymous=True, timeout=5).body.decode()
        return ""

    def look_at_damage(self) -> bool:
        """Bit rot is found when somebody looks: a person who asks for it, or the scrub within its days.

        Returns:
            Whether there was something to look at that nobody had looked at: a package may be back under earlier bytes.
        """
        before = len(self._looked_at)
        for index in range(len(self.nodes)):
            broken = {sha256 for node, sha256 in self.ledger.damaged if node == index}
            for package in self.items(index, "/packages?limit=500") if broken else []:
                one = (index, package["filename"], package["sha256"])
                if package["sha256"] in broken and one not in self._looked_at:
                    self.call(index, "POST", f"/packages/{quote(package['filename'])}/verify")
                    self._looked_at.add(one)
        return len(self._looked_at) > before

    def _scrub(self, index: int) -> None:
        """Have a node read all its files: what was broken of earlier versions is found in no other way."""
        self.call(index, "POST", "/scrub")
        deadline = time.monotonic() + COMMAND_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, HTTPException):
                answer = self.nodes[index].request("GET", "/api/v1/scrub", timeout=5)
                if not json.loads(answer.body)["due_files"]:
                    return
            time.sleep(0.2)
        self.ledger.fault(f"{self.nodes[index].name}: the scrub does not end")

    def _connect(self) -> None:
        deadline, told = time.monotonic() + CONNECT_S, ""
        while len(parts := self.parts()) > 1:
            first, second = parts[0], parts[1]
            if time.monotonic() > deadline:
                self.ledger.fault(f"{min(second)} and {min(first)} are not connected; the last try: {told}")
                return
            told = self.join(min(second), min(first))
            time.sleep(0.25)

    def parts(self) -> list[set[int]]:
        """The connected parts of the network; only registrations that both sides know of connect."""
        seen = {index: set(self.peers(index)) for index in range(len(self.nodes))}
        left, parts = set(seen), []
        while left:
            part, edge = set(), {min(left)}
            while edge:
                part |= edge
                edge = {b for a in edge for b in seen[a] if a in seen[b]} - part
            parts.append(part)
            left -= part
        return parts

    def end(self) -> list[str]:
        """Stop all nodes as a person would, and compare the database of one with its files; what went wrong.

        A last copy that was broken on purpose is lost, and fsck says so.
        """
        for index, node in enumerate(self.nodes):
            looked_at = index == self.plan.seed % len(self.nodes)
            lost = set()
            if looked_at:
                self._scrub(index)
                lost = {
                    each["filename"] for each in self.items(index, "/packages?limit=500&presence=damaged")
                }
            self.stop(index)
            if looked_at and (why := self._command(node, "fsck", "--read-data")):
                problems = re.findall(r"^([a-z_]+): (.*?): ", node.tail(50), re.MULTILINE)
                if not problems or any(kind != "set_aside" or name not in lost for kind, name in problems):
                    self.ledger.fault(f"{node.name}: fsck {why}: {node.tail(5)}")
        return self.ledger.faults

    def logs(self) -> Iterator[str]:
        """The end of every node's log."""
        for node in self.nodes:
            lines = [line[:600] for line in node.log_text().splitlines() if '"action": "request"' not in line]
            yield "\n".join([f"--- {node.name} ---", *lines[-25:]])


def copy_blobs(source: Path, target: Path) -> None:
    """Copy the bytes of a node that may be changing them."""
    target.mkdir()
    for path in source.glob("??/*"):
        (target / path.parent.name).mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            shutil.copy2(path, target / path.parent.name / path.name)


def processor_share() -> float:
    """How much of a processor a thread gets that has work to do."""
    began, used = time.monotonic(), time.thread_time()
    data = bytes(256 * 1024)
    while time.thread_time() - used < 0.02:
        hashlib.sha256(data)
    return min(1.0, (time.thread_time() - used) / (time.monotonic() - began))
