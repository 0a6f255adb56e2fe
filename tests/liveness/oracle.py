"""What must be true of the nodes when the steps are done, and what of it is not.

Where the oracle is lenient, and why:

* Which of two changes of a name wins is decided by revision, author and time. Changes at several nodes at once, kills
  and restores make the winner unknown to whoever drives the nodes. So: no record that was acknowledged outranks the one
  that won; and what won is what was acknowledged under its rank. An automatic change (further digests) keeps the words
  of one that was acknowledged. Only where a node was asked for a change and gave no answer, the winner may be that
  change, of which no more is known than whether its bytes were put in under the name.
* An edit that did not know of a replacement is put together with it: the bytes of one write, and what another said of
  the package (`docs/decisions/0010`).
* A node that is put back to an earlier time has lost what it wrote since and told nobody (`Ledger.at_risk`).
* Bytes may be lost if a copy was destroyed on purpose, it may have been the only one, and none is on any disk.
* A person who has a file verified is told of damage by the job, which fails; all other jobs may not.
* A registration that only one side knows of (the other was put back to before it, or ended it while this one was away)
  connects nothing. It may stand as long as the side that has it shows an error.
* The last copy of a package that the node does not admit is wanted back where it was lost. It is called damaged then,
  and that is right by the same rule as for a package that is admitted.
* A package that is wanted and not here is right if its reason is true: nobody holds it, or nobody who is a peer, or
  every peer that holds it is not asked for it until a time that is shown.
"""

import asyncio
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from appliance.domain.node import admit
from appliance.store.opening import open_store

from .ledger import State
from .plan import NAMES, STAGES
from .reader import download_fault
from .world import World

LIVING = ("todo", "doing", "failed")
UNDER_WAY = {"pending", "fetching", "verifying"}
SILENT = (OSError, KeyError, ValueError, AttributeError)  #: no answer, or not the one that was asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What one node says of itself."""

    packages: dict[str, dict[str, Any]]  #: by name
    peers: dict[int, str]  #: active ones, and what went wrong with them last
    transfers: list[dict[str, Any]]
    jobs: list[dict[str, Any]]  #: those that wait, run or failed


class Oracle:
    """Compares what the nodes say and have with what is remembered."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ledger = world.ledger
        self.put_off: list[str] = []  #: what is right because a time is shown at which it is looked at again

    def unsettled(self) -> list[str]:
        """What is not yet as it must be: this may take its time."""
        world, wrong = self._world, []
        self.put_off = []
        sights = []
        for index, node in enumerate(world.nodes):
            try:
                sights.append(self._see(index))
            except SILENT as exc:
                return [f"{node.name} does not answer: {exc!r}"]
        wrong += self._disagreements(sights)
        wrong += self._losses(sights)
        for index in range(len(world.nodes)):
            wrong += self._presences(index, sights)
            wrong += self._work(index, sights)
        return wrong or list(self._records_that_differ())

    def broken(self) -> list[str]:
        """What must not be at all: wrong bytes, tracebacks, and what was found on the way."""
        world = self._world
        world.notice_ends()
        wrong = list(self._ledger.faults)
        self._ledger.damaged.clear()
        for index, node in enumerate(world.nodes):
            try:
                held = self._items(index, "/packages?limit=500&presence=held")
            except SILENT as exc:
                held = []
                wrong.append(f"{node.name} does not answer: {exc!r}")
            for package in held:
                fault = download_fault(world, index, package["filename"])
                if fault is not None:
                    wrong.append(fault or f"{node.name} holds {package['filename']} and does not serve it")
            for line in node.log_text().splitlines():
                if "Traceback" in line:
                    wrong.append(f"{node.name} logged a traceback: {_shorter(line)}")
        return list(dict.fromkeys(wrong))

    def _items(self, index: int, path: str) -> list[dict[str, Any]]:
        """All items of a list of the admin API; unlike those of the world, a node that does not answer is told."""
        answer = self._world.call(index, "GET", path)
        if answer is None:
            raise OSError(f"no answer to {path}")
        found: list[dict[str, Any]] = answer.json()["items"]
        return found

    def _see(self, index: int) -> Sight:
        packages = {
            package["filename"]: package
            for package in self._items(index, "/packages?limit=500&withdrawn=true")
        }
        jobs = [job for state in LIVING for job in self._items(index, f"/jobs?limit=500&state={state}")]
        return Sight(
            packages=packages,
            peers={
                self._world.index(peer["id"]): peer["last_error"]
                for peer in self._items(index, "/peers")
                if peer["state"] == "active"
            },
            transfers=self._items(index, "/transfers?limit=500"),
            jobs=jobs,
        )

    # Records

    def _disagreements(self, sights: list[Sight]) -> Iterator[str]:
        """All nodes know the same newest record of every name, and a registration with one side says so."""
        for name in NAMES:
            seen: dict[State | None, list[str]] = {}
            for node, sight in zip(self._world.nodes, sights, strict=True):
                package = sight.packages.get(name)
                seen.setdefault(State.of(package) if package else None, []).append(node.name)
            if len(seen) > 1:
                yield f"{name} differs: " + "; ".join(f"{nodes}: {state}" for state, nodes in seen.items())
        for index, sight in enumerate(sights):
            for peer, error in sight.peers.items():
                if index not in sights[peer].peers and not error:
                    names = self._world.nodes[index].name, self._world.nodes[peer].name
                    yield f"{names[0]} shows {names[1]} as a healthy peer, which does not know it"

    def _losses(self, sights: list[Sight]) -> Iterator[str]:
        """What was acknowledged is there, or something that outranks it."""
        for name in NAMES:
            package = sights[0].packages.get(name)
            won = State.of(package) if package else None
            writes = [write for write in self._ledger.writes if write.name == name]
            known = [write.state for write in writes if write.state is not None]
            unanswered = any(write.state is None for write in writes)
            for write in writes:
                lost = write.state is not None and (won is None or won.rank < write.state.rank)
                if lost and not self._ledger.at_risk(write):
                    yield f"{name}: {self._world.nodes[write.node].name} acknowledged {write.state}, and {won} won"
            if won is None:
                continue
            same = [state for state in known if state.rank == won.rank]
            if same and won not in same:
                yield f"{name}: {won} won, and {same[0]} was acknowledged under its rank"
            elif not unanswered and not _asked_for(won, known):
                yield f"{name}: {won} won, which nobody asked for"
            elif not self._ledger.known(name, won.sha256):
                yield f"{name}: {won} won, whose bytes were never put in under this name"

    def _records_that_differ(self) -> Iterator[str]:
        """All nodes know the same records of every kind: asked of their stores."""
        known = [asyncio.run(_records(node)) for node in self._world.nodes]
        for id in sorted(set().union(*known)):
            seen = {records.get(id) for records in known}
            if len(seen) > 1:
                told = "; ".join(
                    f"{node.name}: {records.get(id)}"
                    for node, records in zip(self._world.nodes, known, strict=True)
                )
                yield f"record {id} differs: {told}"

    # Bytes

    def _presences(self, index: int, sights: list[Sight]) -> Iterator[str]:
        """A node holds exactly what it admits, or says truly why not."""
        node = self._world.nodes[index]
        for name, package in sights[index].packages.items():
            what = f"{name} ({package['sha256'][:6]}, {package['stage']}, revision {package['revision']})"
            told = f"{node.name}: {what} is {package['presence']} ({package['reason']})"
            here = package["presence"] == "held"
            if package["withdrawn"]:
                if package["presence"] != "withdrawn":
                    yield f"{told}, and was withdrawn"
                continue
            holders = [
                other
                for other, sight in enumerate(sights)
                if (seen := sight.packages.get(name))
                and (seen["presence"], seen["sha256"]) == ("held", package["sha256"])
            ]
            if self._admits(index, package):
                if not here and (why := self._why_missing(index, package, holders, sights)):
                    yield f"{told}: {why}"
            elif here and any(
                self._admits(other, package) for other in holders if _near(index, other, sights)
            ):
                yield f"{told}, which the node does not admit and another holds"
            elif package["presence"] == "damaged":
                if why := self._why_missing(index, package, holders, sights):
                    yield f"{told}: {why}"
            elif not here and package["presence"] != "not_admitted":
                yield f"{told}, which the node does not admit"

    def _why_missing(
        self, index: int, package: dict[str, Any], holders: list[int], sights: list[Sight]
    ) -> str:
        """What is wrong with a package that is wanted and not here; "" if nothing is."""
        names = {node.name for node in self._world.nodes}
        said, _, _damaged = package["reason"].partition("; the file on ")  # who lost it is no holder
        named = {name for name in names if name in said}
        if "cancelled" in package["reason"] and package["filename"] in self._ledger.cancelled:
            return ""
        near = [other for other in holders if other in sights[index].peers and index in sights[other].peers]
        if near and (package.get("retry_at") or "") > _now() and _deliberate(package, sights[index]):
            name = self._world.nodes[index].name
            self.put_off.append(f"{name}: {package['filename']} {package['reason']}, {package['retry_at']}")
            return ""
        if near or package["presence"] == "arriving":
            return f"held by its peers {[self._world.nodes[other].name for other in near]}"
        if not named <= {self._world.nodes[other].name for other in holders}:
            return f"the reason is not true: it is held by {[self._world.nodes[other].name for other in holders]}"
        if holders:
            return "" if named else "the reason does not say who holds it"
        sha256 = package["sha256"]
        if sha256 not in self._ledger.endangered:
            return "nobody holds it, and no copy was destroyed"
        for other, node in enumerate(self._world.nodes):
            path = self._world.blobs(other).get(sha256)
            if path and hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
                return f"nobody holds it, and its bytes are on the disk of {node.name}"
        return ""

    def _admits(self, index: int, package: dict[str, Any]) -> bool:
        settings = self._world.nodes[index].settings
        refuse = settings["NODE_TAGS_REFUSE"]
        return admit(
            stages=STAGES, node_stage=settings["NODE_STAGE"], take=(), refuse=(refuse,) if refuse else (),
            package_stage=package["stage"], tags=package["tags"],
        ).admitted  # fmt: skip

    # Work

    def _work(self, index: int, sights: list[Sight]) -> Iterator[str]:
        """A transfer that is under way has a job, and no job has failed."""
        node, sight = self._world.nodes[index], sights[index]
        fetching = {job["args"].get("package") for job in sight.jobs if job["state"] != "failed"}
        for transfer in sight.transfers:
            if transfer["state"] in UNDER_WAY and transfer["package"] not in fetching:
                yield f"{node.name}: the transfer of {transfer['filename']} is {transfer['state']} and has no job"
        for job in sight.jobs:
            if job["state"] == "failed" and job["name"] != "package.verify" and not self._was_damaged(job):
                yield f"{node.name}: the job {job['name']} {job['args']} failed: {job['error']}"

    def _was_damaged(self, job: dict[str, Any]) -> bool:
        """Whether a version was to be put back of which a copy was broken on purpose: that is refused."""
        broken = job["args"].get("sha256") in self._ledger.endangered
        return broken and job["name"] == "package.restore" and "is damaged here" in job["error"]


async def _records(node: Any) -> dict[str, tuple[Any, ...]]:
    """Revision, author and whether it is a tombstone, of every record that a node knows."""
    found: dict[str, tuple[Any, ...]] = {}
    store = await open_store(node.settings["DATABASE_URL"], node.data)
    try:
        after = None
        while docs := await store.find("records", limit=500, after=after):
            for doc in docs:
                found[doc["_id"]] = tuple(doc["record"][key] for key in ("revision", "author", "deleted"))
            after = (docs[-1]["_id"], docs[-1]["_id"])
    finally:
        await store.close()
    return found


def _asked_for(won: State, known: list[State]) -> bool:
    """Whether what won is what somebody wrote, or the bytes that one wrote with what another one said of them."""
    if won.words in {state.words for state in known}:
        return True
    said = {(state.stage, state.tags) for state in known}
    return (
        not won.withdrawn and won.sha256 in {each.sha256 for each in known} and (won.stage, won.tags) in said
    )


def _deliberate(package: dict[str, Any], sight: Sight) -> bool:
    """Whether a package waits by a rule; what only has a time of its next try shall not be missing at the end."""
    if "is asked again at" in package["reason"] or "the record is wrong" in package["reason"]:
        return True
    return any(each["package"] == package["id"] and each["state"] == "failed" for each in sight.transfers)


def _now() -> str:
    """As the API writes times, for comparison."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _shorter(line: str) -> str:
    try:
        entry = json.loads(line)
    except ValueError:
        return line[-300:]
    return f"{entry.get('message')}: {entry.get('exception')} ... {entry.get('traceback', '')[-250:]}"


def _near(index: int, other: int, sights: list[Sight]) -> bool:
    """Whether a node can have another prove that it has a package: a direct peer, or a peer of one."""

    def linked(one: int, two: int) -> bool:
        return two in sights[one].peers and one in sights[two].peers

    relays = range(len(sights))
    return linked(index, other) or any(linked(index, relay) and linked(relay, other) for relay in relays)
