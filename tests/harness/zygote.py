"""Nodes that start in a fraction of a second: forked from a process that has imported everything already.

A test that starts fifty processes in ten seconds on two cores has no time to import everything fifty times. The
zygote imports the program once, has neither thread nor event loop, and forks a child for each command that it is sent:
the child runs `appliance.cli.main` exactly as `python -m appliance` does, in a session of its own, with its own log,
environment and directory. It is a real process that a real `kill -9` ends.

    test process                      zygote                       node
    Zygote.run(["serve"]) ── line ──> fork ──────────────────────> main(["serve"])
    Forked.pid            <── line ── {"started": 1, "pid": 4711}
    Forked.kill()         ── line ──> kill(4711)
    Forked.wait()         <── line ── {"ended": 4711, "code": -9}

Only the zygote knows for certain that a process id is still that of its child, so signals go through it.
"""

import contextlib
import ctypes
import gc
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .node import NodeProcess, die_with_parent
from .waiting import eventually

ANSWER_S = 60.0


class Forked:
    """A child of the zygote; as much of `subprocess.Popen` as `NodeProcess` needs."""

    def __init__(self, zygote: "Zygote", pid: int) -> None:
        self._zygote = zygote
        self.pid = pid

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._zygote.code(self.pid)

    def wait(self, timeout: float = ANSWER_S) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: It did not end in time.
        """
        return self._zygote.wait(self.pid, timeout)

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        self._zygote.send({"signal": int(number), "pid": self.pid})

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)


class Zygote:
    """Starts commands of the program as forks. Make it on the main thread: the zygote ends with its starter."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            environment = {name: value for name, value in os.environ.items() if not name.startswith("ODS_")}
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.harness.zygote", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                cwd=Path(__file__).parents[2],
                env=environment,
                preexec_fn=die_with_parent,  # noqa: PLW1509
            )
        self._socket = ours
        self._changed = threading.Condition()
        self._started: dict[int, int] = {}  #: pid by number of the command
        self._codes: dict[int, int | None] = {}  #: by pid, None while it runs
        self._count = 0
        threading.Thread(target=self._listen, name="zygote", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._process.wait(ANSWER_S)
        self._socket.close()

    def run(
        self, arguments: Sequence[str], *, environment: Mapping[str, str], directory: Path, log: Path
    ) -> Forked:
        """Start a command.

        Args:
            arguments: What stands behind `ods`.
            environment: Settings; the rest is the zygote's own environment.
            directory: Where it runs.
            log: What its standard output and standard error are appended to.
        """
        with self._changed:
            self._count += 1
            number = self._count
        command = {"run": number, "arguments": list(arguments), "environment": dict(environment)}
        self.send({**command, "directory": str(directory), "log": str(log)})
        with self._changed:
            if not self._changed.wait_for(lambda: number in self._started, ANSWER_S):
                raise AssertionError("the zygote does not answer")
            return Forked(self, self._started[number])

    def send(self, command: dict[str, Any]) -> None:
        """Send a line."""
        with self._changed:
            self._socket.sendall(json.dumps(command).encode() + b"\n")

    def code(self, pid: int) -> int | None:
        """The exit code of a child, None while it runs."""
        with self._changed:
            return self._codes[pid]

    def wait(self, pid: int, timeout: float) -> int:
        """Wait for the exit code of a child."""
        with self._changed:
            self._changed.wait_for(lambda: self._codes[pid] is not None, timeout)
            code = self._codes[pid]
        if code is None:
            raise subprocess.TimeoutExpired(str(pid), timeout)
        return code

    def _listen(self) -> None:
        with self._socket.makefile("rb") as lines:
            for line in lines:
                told = json.loads(line)
                with self._changed:
                    if "ended" in told:
                        self._codes[told["ended"]] = told["code"]
                    else:
                        self._started[told["started"]] = told["pid"]
                        self._codes.setdefault(told["pid"], None)
                    self._changed.notify_all()


class ForkedNode(NodeProcess):
    """A node whose processes are forks of a zygote: one that does everything, or one that serves and some that work.

    Args:
        zygote: Starts its processes.
        workers: How many processes do the jobs; 0 for one process that does everything.
    """

    def __init__(self, zygote: Zygote, directory: Path, name: str, *, workers: int = 0, **more: Any) -> None:
        super().__init__(directory, name, **more)
        self._zygote = zygote
        self.workers: list[Forked | None] = [None] * workers

    def start(self, *, wait: bool = True) -> "ForkedNode":
        """Start what does not run of it, and wait until it is ready."""
        self.start_serving()
        if self.workers and wait:
            eventually(lambda: not self.running or self.status("/health/live") == 200, 30, self.tail)
        self.start_workers()
        if wait:
            self.wait_ready()
        return self

    def start_serving(self) -> None:
        """Start the process that serves, without waiting."""
        assert not self.running, f"{self.name} runs already"
        self.process = self.command("serve", *(["--no-worker"] if self.workers else []))  # type: ignore[assignment]

    def start_workers(self) -> None:
        """Start those workers that do not run."""
        for number, worker in enumerate(self.workers):
            if worker is None or worker.poll() is not None:
                self.workers[number] = self.command("worker")

    def command(self, *arguments: str) -> Forked:
        """Start a command with the node's settings."""
        settings = {f"ODS_{name}": value for name, value in self.settings.items() if value}
        return self._zygote.run(arguments, environment=settings, directory=self.directory, log=self.log)

    def processes(self) -> list[Forked]:
        """Its processes that have been started and not been ended by us."""
        return [process for process in (self.process, *self.workers) if process is not None]  # type: ignore[misc]

    def kill_worker(self, number: int) -> None:
        """Kill one of its workers as a crash would."""
        worker = self.workers[number]
        if worker is not None:
            worker.kill()
            worker.wait()
            self.workers[number] = None

    def _end(self, number: signal.Signals) -> int:
        for worker in self.workers:
            if worker is not None:
                worker.send_signal(number)
        code = super()._end(number)
        for position, worker in enumerate(self.workers):
            if worker is not None:
                code = code or worker.wait(40)
                self.workers[position] = None
        return code

    def dispose(self) -> None:
        """End it, whatever it does."""
        for process in self.processes():
            process.kill()
            process.wait()
        self.process, self.workers = None, [None] * len(self.workers)


# The zygote's own side


def _answer_forks(link: socket.socket) -> list[str] | None:
    """Fork for every command until the starter is gone. Answers arguments in each child, and None in the zygote."""
    waker, wakened = socket.socketpair()
    for end in (waker, wakened):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.set_wakeup_fd(waker.fileno())
    selector = selectors.DefaultSelector()
    selector.register(link, selectors.EVENT_READ)
    selector.register(wakened, selectors.EVENT_READ)
    rest, living = b"", set()
    while True:
        selector.select()
        with contextlib.suppress(BlockingIOError):
            wakened.recv(4096)
        while living and (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            living.discard(ended[0])
            _tell(link, {"ended": ended[0], "code": os.waitstatus_to_exitcode(ended[1])})
        try:
            data = link.recv(65536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            continue
        if not data:
            return None
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            command = json.loads(line)
            if "signal" in command:
                if command["pid"] in living:
                    os.kill(command["pid"], command["signal"])
                continue
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for end in (selector, waker, wakened, link):
                    end.close()
                _become(command)
                arguments: list[str] = command["arguments"]
                return arguments
            living.add(pid)
            _tell(link, {"started": command["run"], "pid": pid})


def _tell(link: socket.socket, message: dict[str, Any]) -> None:
    link.sendall(json.dumps(message).encode() + b"\n")


def _become(command: dict[str, Any]) -> None:
    """Take over the log, the directory and the settings of a command."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    os.setsid()
    log = os.open(command["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for standard in (1, 2):
        os.dup2(log, standard)
    os.close(log)
    os.chdir(command["directory"])
    os.environ.update(command["environment"])
    gc.unfreeze()


def _main() -> None:
    # What the command imports when it is first needed is imported here, once.
    import appliance.bootstrap
    import appliance.cli
    import appliance.server
    import appliance.store.archive
    import appliance.store.mongo.store

    gc.collect()
    gc.freeze()
    arguments = _answer_forks(socket.socket(fileno=int(sys.argv[1])))
    if arguments is not None:
        sys.argv[1:] = arguments
        appliance.cli.main(arguments)


if __name__ == "__main__":
    _main()
