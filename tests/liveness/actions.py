"""What is done to the nodes: a method for each kind of step. That a node refuses or does not answer is allowed."""

import functools
import json
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from urllib.parse import quote, urlencode

from tests.fakes.proxy import cut_after, doubled, flip_bit, other_size, page, slow

from .ledger import Content
from .plan import LIES, NAMES, STAGES, Step
from .world import World

LIARS = {
    "page": page,
    "double": doubled,
    "flip": lambda: flip_bit(times=4),
    "cut": lambda: cut_after(100_000, times=8),
    "short": other_size,
    "slow": lambda: slow(0.3),
}


class Actions:
    """Carries out steps."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ledger = world.ledger
        self.story: list[str] = []  #: what was done, and what came of it

    def act(self, step: Step) -> None:
        """Do one step, and wait as long as it says."""
        self._world.tick()
        began = time.monotonic()
        do: Callable[[Step], object] = getattr(self, f"_{step.act}")
        try:
            told = do(step)
        except (OSError, HTTPException) as exc:  # the node stands still
            told = f"no answer: {exc}"
        self.story.append(f"{step}  -> {told} ({time.monotonic() - began:.1f} s)")
        time.sleep(step.pause_s)

    # Packages

    def put(
        self, node: int, name: str, content: Content, stage: str = "prod", tags: tuple[str, ...] = ()
    ) -> str:
        """Upload, and replace what has the name."""
        data, sha256 = self._ledger.content(name, content)
        query = {"replace": "true", "stage": stage, **({"tags": ",".join(tags)} if tags else {})}
        path = f"/packages/{quote(name)}?{urlencode(query)}"
        told = self._change(node, name, "PUT", path, data, "application/octet-stream")
        if told in {"200", "201"}:  # whatever lay there under this hash: the right bytes were acknowledged
            self._ledger.damaged.discard((node, sha256))
        return f"{sha256[:6]} {told}"

    def _change(
        self, node: int, name: str, method: str, path: str, body: bytes | None, kind: str = "application/json"
    ) -> str:
        """Ask for a change of a package, and note what was acknowledged."""
        began = time.monotonic()
        answer = self._world.call(node, method, path, body, kind)
        if answer is not None and 200 <= answer.status < 300:
            self._ledger.wrote(node, name, began, answer.json())
        elif answer is None or answer.status >= 500:  # it may have happened all the same
            self._ledger.wrote(node, name, began, None)
        return str(answer.status) if answer is not None else "no answer"

    def _patch(self, node: int, name: str, **changes: object) -> str:
        return self._change(node, name, "PATCH", f"/packages/{quote(name)}", json.dumps(changes).encode())

    def _upload(self, step: Step) -> str:
        content = Content(key=step.number, size=step.size)
        return self.put(step.node, NAMES[step.name], content, step.stage, step.tags)

    def _burst(self, step: Step) -> str:
        """Many at once, at two nodes."""
        with ThreadPoolExecutor(4) as pool:
            uploads = [
                pool.submit(
                    self.put,
                    (step.node, step.other)[turn % 2],
                    NAMES[(step.name + turn) % len(NAMES)],
                    Content(key=1000 * step.number + turn, size=step.size // (1 + turn)),
                )
                for turn in range(2 * step.count)
            ]
            return ", ".join(upload.result() for upload in uploads)

    def _put_back(self, step: Step) -> str:
        """Earlier bytes of the same name again."""
        name = NAMES[step.name]
        past = self._ledger.history.get(name)
        if not past:
            return "nothing to put back"
        content = self._ledger.contents[past[int(step.chance * len(past))]]
        return self.put(step.node, name, content, step.stage)

    def _withdraw(self, step: Step) -> str:
        name = NAMES[step.name]
        return self._change(step.node, name, "DELETE", f"/packages/{quote(name)}", None)

    def _withdraw_and_upload(self, step: Step) -> str:
        """The same file again, at once."""
        name = NAMES[step.name]
        past = self._ledger.history.get(name)
        told = self._withdraw(step)
        return f"{told}, {self.put(step.node, name, self._ledger.contents[past[-1]])}" if past else told

    def _withdraw_race(self, step: Step) -> str:
        """The same bytes again while they are withdrawn, under the same name or another."""
        name = NAMES[step.name]
        past = self._ledger.history.get(name)
        if not past:
            return "nothing to withdraw"
        content = self._ledger.contents[past[-1]]
        other = name if step.count % 2 else NAMES[(step.name + 1) % len(NAMES)]
        with ThreadPoolExecutor(2) as pool:
            gone = pool.submit(self._withdraw, step)
            time.sleep(0.05 * step.chance)
            told = self.put(step.node, other, content)
            return f"{gone.result()}, {other} {told}"

    def _restage(self, step: Step) -> str:
        return self._patch(step.node, NAMES[step.name], stage=step.stage)

    def _flap(self, step: Step) -> str:
        """Away from most nodes and back, for several packages."""
        names = [NAMES[(step.name + turn) % len(NAMES)] for turn in range(step.count)]
        return " ".join(self._patch(step.node, name, stage=to) for to in ("dev", "prod") for name in names)

    def _retag(self, step: Step) -> str:
        return self._patch(step.node, NAMES[step.name], tags=list(step.tags))

    def _promote(self, step: Step) -> str:
        """To the next stage, as a person does who has looked at it."""
        name = NAMES[step.name]
        answer = self._world.call(step.node, "GET", f"/packages/{quote(name)}")
        if answer is None or answer.status != 200 or answer.json()["stage"] == STAGES[-1]:
            return "nothing to promote"
        return self._patch(step.node, name, stage=STAGES[STAGES.index(answer.json()["stage"]) + 1])

    def _verify(self, step: Step) -> str:
        answer = self._world.call(step.node, "POST", f"/packages/{quote(NAMES[step.name])}/verify")
        return str(answer and answer.status)

    def _scrub(self, step: Step) -> str:
        answer = self._world.call(step.node, "POST", "/scrub")
        return str(answer and answer.status)

    def _restore_version(self, step: Step) -> str:
        """The newest earlier version of a package, if it is in the trash: a job writes the record."""
        name, began = NAMES[step.name], time.monotonic()
        answer = self._world.call(step.node, "POST", f"/packages/{quote(name)}/restore", b"{}")
        if answer is None or answer.status == 202:
            self._ledger.wrote(step.node, name, began, None)
        return str(answer and answer.status)

    def _cancel(self, step: Step) -> str:
        """A person stops a transfer and starts it again; or cancels its job, and that is what the reason says then."""
        if step.chance < 0.5:
            jobs = self._world.items(step.node, "/jobs?limit=500&state=todo")
            job = next((job for job in jobs if "package" in job["args"]), None)
            if job is None:
                return "no job"
            package = self._world.call(step.node, "GET", f"/packages/{job['args']['package']}")
            answer = self._world.call(step.node, "POST", f"/jobs/{job['id']}/cancel")
            if package is not None and package.status == 200:
                self._ledger.cancelled.add(package.json()["filename"])
            return f"{job['name']} {answer and answer.status}"
        states = {"pending", "fetching", "stalled"}
        transfers = self._world.items(step.node, "/transfers?limit=500")
        transfer = next((transfer for transfer in transfers if transfer["state"] in states), None)
        if transfer is None:
            return "no transfer"
        path = f"/transfers/{transfer['id']}"
        told = [self._world.call(step.node, "POST", f"{path}/{act}") for act in ("cancel", "retry")]
        if told[1] is None or told[1].status >= 300:
            self._ledger.cancelled.add(transfer["filename"])
        return f"transfer {[answer and answer.status for answer in told]}"

    # Peers

    def _a_peer(self, step: Step) -> int:
        peers = self._world.peers(step.node)
        return peers[int(step.chance * len(peers))] if peers else -1

    def _part(self, step: Step) -> str:
        """End a registration."""
        peer = self._a_peer(step)
        if peer < 0:
            return "no peer"
        answer = self._world.call(step.node, "DELETE", f"/peers/{self._world.nodes[peer].id}")
        return f"{self._world.nodes[peer].name} {answer and answer.status}"

    def _rejoin(self, step: Step) -> str:
        """End a registration, and make it again at once, from one side or the other."""
        peer = self._a_peer(step)
        if peer < 0:
            return "no peer"
        told = self._part(step)
        pair = (step.node, peer) if step.count % 2 else (peer, step.node)
        return f"{told}, {self._world.join(*pair)}"

    def _remove_node(self, step: Step) -> str:
        """Somebody says that a node is gone for good, and is wrong: it comes back."""
        self._world.kill(step.other)
        id = self._world.nodes[step.other].id
        told = [self._world.call(step.node, "DELETE", path) for path in (f"/peers/{id}", f"/nodes/{id}")]
        self._world.due(step.span_s, functools.partial(self._world.start, step.other))
        return str([answer and answer.status for answer in told])

    def _join(self, step: Step) -> str:
        return self._world.join(step.node, step.other)

    # Processes

    def _kill(self, step: Step) -> str:
        self._world.kill(step.node)
        self._world.start(step.node)
        return "killed"

    def _leave_down(self, step: Step) -> str:
        """Killed, and away for a while."""
        self._world.kill(step.node)
        self._world.due(step.span_s, functools.partial(self._world.start, step.node))
        return "killed"

    def _restart(self, step: Step) -> str:
        self._world.stop(step.node)
        self._world.start(step.node)
        return "restarted"

    def _freeze(self, step: Step) -> str:
        frozen = self._world.nodes[step.node].processes()

        def send(number: signal.Signals) -> None:
            for process in frozen:
                process.send_signal(number)

        send(signal.SIGSTOP)
        self._world.later(step.span_s, functools.partial(send, signal.SIGCONT))
        return "frozen"

    def _kill_worker(self, step: Step) -> str:
        """One of the processes that do the jobs dies, and comes back after a while."""
        node = self._world.nodes[step.node]
        if not node.workers:
            return "has no workers"
        node.kill_worker(step.count % len(node.workers))
        self._world.due(step.span_s, functools.partial(self._world.start, step.node))
        return "killed"

    def _reclassify(self, step: Step) -> str:
        """The node itself gets another stage, or another tag that it refuses."""
        self._world.stop(step.node)
        settings = self._world.nodes[step.node].settings
        if step.chance < 0.6:
            settings["NODE_STAGE"] = step.stage
        else:
            settings["NODE_TAGS_REFUSE"] = "" if settings["NODE_TAGS_REFUSE"] else "lab"
        self._world.start(step.node)
        return f"{settings['NODE_STAGE']}, refuses {settings['NODE_TAGS_REFUSE'] or 'nothing'}"

    # Networks

    def _lie(self, step: Step) -> str:
        """What is between a node and its peers changes the node's answers, or lets nobody through."""
        liars = sorted(self._world.proxies)
        node = liars[step.other % len(liars)]
        proxy = self._world.proxies[node]
        assert step.lie in LIES
        if step.lie == "away":
            proxy.down()
        else:
            proxy.meddle = LIARS[step.lie]()
        self._world.later(step.span_s, proxy.be_honest)
        return f"before {self._world.nodes[node].name}"

    # Disks

    def _a_blob(self, step: Step) -> Path | None:
        """A file of a node that is about to be broken."""
        found = self._world.blobs(step.node)
        if not found:
            return None
        sha256 = sorted(found)[int(step.chance * len(found))]
        self._ledger.break_blob(step.node, sha256)
        return found[sha256]

    def _flip(self, step: Step) -> str:
        """One bit, as disks forget them: nothing else of the file changes."""
        path = self._a_blob(step)
        if path is None:
            return "no blob"
        before = path.stat()
        with path.open("r+b") as file:
            position = int(step.chance * 7919) % max(1, before.st_size)
            file.seek(position)
            byte = file.read(1)[0]
            file.seek(position)
            file.write(bytes([byte ^ 0x04]))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        return path.name[:6]

    def _truncate(self, step: Step) -> str:
        path = self._a_blob(step)
        if path is None:
            return "no blob"
        os.truncate(path, path.stat().st_size // 2)
        return path.name[:6]

    def _lose(self, step: Step) -> str:
        """A file is gone."""
        path = self._a_blob(step)
        if path is None:
            return "no blob"
        path.unlink()
        return path.name[:6]

    def _fill(self, step: Step) -> str:
        """No room for a while; sometimes the node is killed meanwhile, and starts without room."""
        disks = self._world.disks
        if not disks:
            return "no disk of its own"
        node = sorted(disks)[0]
        self._world.fill(node)
        self._world.later(step.span_s, functools.partial(self._world.clear, node))
        told = [self.put(node, NAMES[step.name], Content(key=step.number, size=step.size))]
        if step.chance < 0.4:
            self._world.kill(node)
            self._world.start(node)
            told.append("killed")
        return ", ".join(told)

    # Backups

    def _backup(self, step: Step) -> str:
        return self._world.back_up(step.node, export=step.chance < 0.5)

    def _restore(self, step: Step, *, blobs: bool = True) -> str:
        """Put a node back; in half of the cases a peer is away meanwhile, and the node goes on writing."""
        backed_up = sorted(self._world.backups)
        if not backed_up:
            return "no backup"
        node = backed_up[step.node % len(backed_up)]
        away = step.other if step.other != node and step.chance < 0.7 else -1
        if away >= 0:
            self._world.kill(away)
        told = [self._world.nodes[node].name, self._world.restore(node, blobs=blobs)]
        if away >= 0:
            self._world.nodes[node].wait_ready()
            for turn in range(step.count):
                content = Content(key=1000 * step.number + turn, size=step.size // (1 + turn))
                told.append(self.put(node, NAMES[(step.name + turn) % len(NAMES)], content))
            self._world.start(away)
        return ", ".join(told)

    def _restore_blind(self, step: Step) -> str:
        """A restore without the bytes: they come from the peers."""
        return self._restore(step, blobs=False)
