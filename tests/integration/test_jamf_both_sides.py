"""Packages that are edited on both sides, by chance, while Jamf Pro has every habit that is known of it.

The bridge and the stand-in of Jamf Pro are real, on a clock that the test moves. After each step: nothing that was put
on either side was lost, nothing old came back, and no record exists twice. `ODS_JAMF_STEPS` and `ODS_JAMF_SEEDS` make
it longer; a failure names its seed.
"""

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from appliance.domain.errors import ApplianceError
from appliance.domain.mdm_errors import BytesWrong, MdmRefused
from appliance.domain.names import package_id
from appliance.jobs.context import JobContext
from appliance.service.digests import DIGEST_JOB
from appliance.service.secrets import SecretBox
from appliance.service.uploads import UploadService
from appliance.store.opening import open_store
from appliance.store.ports import Done, Failed, Retry
from jamf_bridge.bridge import Bridge
from jamf_bridge.intake.pulling import PULL_JOB
from jamf_bridge.jamf_driver import known
from jamf_bridge.jobs import SYNC_JOB, sync_job
from jamf_bridge.mirror.uploading import UPLOAD_JOB
from tests.conftest import DATABASES
from tests.fakes.jamf.app import make_app
from tests.fakes.jamf.state import Content, State
from tests.integration.test_digests import STAGES, Clock, Node

STEPS = int(os.environ.get("ODS_JAMF_STEPS", "100"))
SEEDS = int(os.environ.get("ODS_JAMF_SEEDS", "1"))
NAMES = [f"Tool-{number:02}.pkg" for number in range(30)]
NEVER = float("inf")


class Sides:
    """A node with a bridge, a Jamf Pro, and what people put on either."""

    def __init__(self, node: Node, root: Path, chance: random.Random, **jamf: Any) -> None:
        self.node, self.chance = node, chance
        self.clock = node.clock
        self.jamf = State(**jamf)
        self.jamf.faults.hooks = False
        uploads = UploadService(
            store=node.store, blobs=node.blobs, layout=node.layout, packages=node.packages, stages=STAGES,
            default_stage="prod", max_size=1 << 30, life_ms=86_400_000, now=self.clock,
        )  # fmt: skip
        self.bridge = Bridge(
            store=node.store, box=SecretBox(root / "secrets.key"), catalogue=node.catalogue,
            holdings=node.holdings, packages=node.packages, blobs=node.blobs, uploads=uploads,
            stages=STAGES, reading_peers=lambda: False, now=self.clock,
        )  # fmt: skip
        self.work: dict[str, Callable[..., Any]] = {
            SYNC_JOB: self.bridge._syncing.run,
            PULL_JOB: self.bridge._pulling.run,
            UPLOAD_JOB: self.bridge._uploading.run,
            DIGEST_JOB: node.digests.run,
        }
        self.server = ""
        self.put_at: dict[str, dict[bytes, int]] = {
            name: {} for name in NAMES
        }  #: when people put bytes there
        self.withdrawn_at: dict[str, int] = {}
        self.was_here: dict[str, set[bytes]] = {name: set() for name in NAMES}
        self.number = 0
        self.done: Counter[str] = Counter()

    async def connect(self, url: str, **mirror: Any) -> None:
        """Connect the two; ODS uploads, unless `mirror` says otherwise."""
        settings = {"url": url, "client_id": self.jamf.client_id, "client_secret": self.jamf.client_secret}
        shown = await self.bridge.add(
            {
                "name": "Jamf",
                "kind": "jamf",
                "settings": {**settings, "insecure": True},
                "mirror": {"upload": True, **mirror},
                "points": {"enabled": False},
                "webhooks": {"enabled": False},
            },
            actor="admin",
        )
        self.server = str(shown["id"])

    # What is where

    def here(self, name: str) -> bytes | None:
        """What the node has under a name."""
        package = self.node.catalogue.by_id(package_id(name))
        if package is None or package.withdrawn:
            return None
        return self.node.blobs.path(package.body.sha256).read_bytes()

    def there(self, name: str) -> bytes | None:
        """What Jamf's cloud has, or soon has, under a name."""
        file = self.jamf.cloud.get(name)
        return file.content.read(0, file.content.size) if file is not None else None

    # What people do

    def fresh(self, name: str) -> bytes:
        """Bytes that were never anywhere."""
        self.number += 1
        return f"{name} {self.number}".encode() + b"." * self.chance.randrange(40)

    def earlier(self, name: str) -> bytes:
        """Bytes that were put there before, or fresh ones."""
        known = sorted(self.put_at[name])
        return self.chance.choice(known) if known else self.fresh(name)

    async def put_here(self, name: str, data: bytes) -> None:
        """Somebody puts a file on the node."""
        if data == self.here(name):
            return
        self.node.layout.partial("x").unlink(missing_ok=True)
        await self.node.publish(name, data, replace=True)
        self.put_at[name][data] = self.clock()
        self.was_here[name].add(data)

    async def put_there(self, name: str, data: bytes) -> None:
        """An admin uploads a file in Jamf; sometimes it is hashed at once, sometimes later."""
        if data == self.there(name):
            return  # nobody could see it
        pending = self.chance.choice([0.0, 0.0, NEVER])
        self.jamf.admin_upload(name, Content(data=data), pending_s=pending)
        self.put_at[name][data] = self.clock()

    async def withdraw(self, name: str) -> None:
        """Somebody withdraws a package."""
        if self.here(name) is not None:
            await self.node.packages.withdraw(package_id(name), actor="me")
            self.withdrawn_at[name] = self.clock()

    def delete_there(self, name: str) -> None:
        """An admin deletes a record, and its file with it."""
        id = self.jamf.by_file(name)
        if id is not None:
            del self.jamf.packages[id]
            self.jamf.cloud.pop(name, None)

    def land(self) -> None:
        """Jamf has hashed what was uploaded."""
        for file in self.jamf.cloud.values():
            file.ready_at = 0.0

    async def edit(self) -> None:
        """One thing that people do."""
        name = self.chance.choice(NAMES)
        match self.chance.randrange(20):
            case 0 | 1 | 2 | 3 | 4:
                await self.put_here(name, self.fresh(name))
            case 5 | 6:
                await self.put_here(name, self.earlier(name))
            case 7 | 8 | 9 | 10 | 11:
                await self.put_there(name, self.fresh(name))
            case 12 | 13:
                await self.put_there(name, self.earlier(name))
            case 14:
                await self.withdraw(name)
            case 15:
                self.delete_there(name)
            case _:
                self.land()

    def change_habits(self) -> None:
        """Let Jamf Pro be unpleasant in some way, or stop it."""
        faults, chance = self.jamf.faults, self.chance
        match chance.randrange(10):
            case 0:
                self.jamf.freeze()
            case 1 if self.jamf.snapshot:
                faults.stale_lists = chance.randrange(1, 3)
            case 2:
                faults.missing_once = chance.sample(NAMES, chance.randrange(1, 4))
            case 3:
                faults.empty_lists = chance.randrange(1, 6)
            case 4:
                faults.refuse = {"/api/v1/jcds/files": [chance.choice([403, 404]), 1]}
            case 5:
                faults.refuse = {"/api/v1/cloud-distribution-point": [chance.choice([403, 404]), 1]}
            case 6:
                faults.count_more = chance.choice([0, 0, 2])
            case 7:
                faults.page_most = chance.choice([3, 7, 2000])
            case 8:
                faults.duplicate = chance.choice(["DUPLICATE_FIELD", "409", "That name already exists"])
            case _:
                self.calm()

    def calm(self) -> None:
        """Let Jamf Pro be as it should be."""
        faults = self.jamf.faults
        faults.stale_lists = faults.empty_lists = faults.count_more = 0
        faults.missing_once, faults.refuse, faults.page_most = [], {}, 2000

    # What the bridge does

    async def run_jobs(self) -> None:
        """Do what is due."""
        store = self.node.store
        for queue in ("default", "hash", "transfer"):
            for job in await store.claim(queue, "w", now=self.clock(), lease_ms=60_000, limit=100):
                context = JobContext(job, asyncio.get_running_loop())
                outcome: Any = Done()
                try:
                    if queue == "default":
                        await self.work[job.name](job, context)
                    else:
                        await asyncio.to_thread(self.work[job.name], job, context)
                except (BytesWrong, MdmRefused) as exc:
                    outcome = Failed(error=exc.message)
                    if job.name == PULL_JOB:
                        await self.bridge._pulling.gave_up(job, exc.message)
                except ApplianceError as exc:
                    outcome = Retry(run_at=self.clock() + 20_000, error=exc.message)
                await store.settle(job, outcome, now=self.clock())
                self.done[job.name] += 1

    async def sync(self) -> None:
        """One sync, all that follows, and then nobody has lost anything."""
        before = {name: (self.here(name), self.there(name)) for name in NAMES}
        await self.node.store.enqueue(sync_job(self.server, self.clock()))
        await self.run_jobs()
        await self.run_jobs()
        for name, (here, there) in before.items():
            self.check(name, here, there)
        doubled = [name for name, count in Counter(self.file_names()).items() if count > 1]
        assert not doubled, f"records that exist twice: {doubled}"

    def file_names(self) -> list[str]:
        return [str(record["fileName"]) for record in self.jamf.packages.values()]

    def check(self, name: str, here: bytes | None, there: bytes | None) -> None:
        """What the bridge did to one name."""
        put_at, now_here, now_there = self.put_at[name], self.here(name), self.there(name)
        if now_here != here:
            assert now_here is not None, f"{name} was withdrawn by the bridge"
            if now_here in self.was_here[name]:  # an earlier version came back: somebody wanted that
                last = put_at[here] if here is not None else self.withdrawn_at.get(name, 0)
                assert put_at[now_here] > last, f"{name}: old bytes came back"
            self.was_here[name].add(now_here)
            self.done["taken in"] += 1
        if now_there != there:
            if there is not None:
                assert there in self.was_here[name], f"{name}: bytes that were only in Jamf are lost"
            if now_there is not None:
                assert now_there in (now_here, here)
                self.done["uploaded"] += 1

    async def shown(self) -> set[str]:
        """File names of which the rows say that something is wrong."""
        rows = await self.node.store.find("mdm_remote", {"server": self.server}, limit=500)
        links = await self.node.store.find("mdm_links", {"server": self.server}, limit=500)
        states = {"conflict", "quarantined", "failed"}
        return {row["file_name"] for row in (*rows, *links) if row["state"] in states}

    async def health(self) -> dict[str, Any]:
        """State, reason and health of the server."""
        return dict(await self.bridge.server(self.server))

    async def rest(self) -> None:
        """Until nothing moves any more: for longer than an upload that was overtaken is waited for."""
        self.calm()
        for _ in range(14):
            self.land()
            self.clock.ms += 180_000
            await self.sync()


@contextlib.asynccontextmanager
async def both_sides(
    root: Path, chance: random.Random, database: str = "", **jamf: Any
) -> AsyncIterator[tuple[Sides, str]]:
    """A node and a Jamf Pro in this process, not connected yet; and the URL of the latter."""
    store = await open_store(database, root / "store")
    sides = Sides(Node(store, root, Clock()), root, chance, **jamf)
    sockets = bind_sockets(0, "127.0.0.1")
    server = HTTPServer(make_app(sides.jamf))
    server.add_sockets(sockets)
    try:
        yield sides, f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    finally:
        server.stop()
        await server.close_all_connections()
        await sides.bridge.stop()
        await store.close()


async def _live(root: Path, seed: int, database: str = "") -> Counter[str]:
    chance = random.Random(seed)
    async with both_sides(root, chance, database) as (sides, url):
        for name in NAMES[:20]:
            await sides.put_here(name, sides.fresh(name))
        for name in NAMES[10:]:
            await sides.put_there(name, sides.fresh(name))
        sides.land()
        await sides.connect(url, withdrawal=chance.choice(["leave", "delete"]))
        for _ in range(STEPS):
            if chance.random() < 0.4:
                sides.change_habits()
            for _ in range(chance.randrange(3)):
                await sides.edit()
            sides.clock.ms += chance.choice([5_000, 20_000, 61_000])
            await sides.sync()
        await sides.rest()
        shown = await sides.shown()
        apart = [
            name for name in NAMES
            if name not in shown and sides.here(name) is not None
            and sides.there(name) not in {None, sides.here(name)}  # what an admin deleted there stays deleted
        ]  # fmt: skip
        assert not apart, f"these differ, and nothing says why: {apart}"
        sides.done["shown"] = len(shown)
        return sides.done


@pytest.mark.parametrize("database", DATABASES)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_is_edited_on_both_sides_is_neither_lost_nor_doubled_nor_taken_back(
    tmp_path: Path,
    seed: int,
    database: str,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = request.getfixturevalue("mongod").url(f"sides{seed}") if database == "mongo" else ""
    monkeypatch.setattr(known, "ASK_AGAIN_S", 0.0)  # of a clock that the test does not move
    done = asyncio.run(_live(tmp_path, seed, url))
    with capsys.disabled():
        print(f"\n{database}, seed {seed}: {dict(done)}")
    assert done["taken in"] > 5
    assert done["uploaded"] > 5
    assert done["shown"] < len(NAMES) // 2
