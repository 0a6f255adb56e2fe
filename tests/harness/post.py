"""Everything of notifications over one store, with a clock that stands still until it is moved."""

import asyncio
import datetime
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from appliance.domain.event import EventType
from appliance.jobs.runner import Runner
from appliance.peering.tls import client_context
from appliance.service.journal import entry
from appliance.service.notifications import Notifications
from appliance.service.notifications.addresses import Policy
from appliance.service.notifications.bodies import Teller
from appliance.service.notifications.deliveries import SEND_JOB, Deliveries
from appliance.service.notifications.destinations import Destinations
from appliance.service.notifications.mailbox import MailServer
from appliance.service.notifications.outbox import Outbox
from appliance.service.notifications.sending import Sending
from appliance.service.secrets import SecretBox
from appliance.store.opening import open_store
from appliance.store.ports import Doc, Store
from tests.fakes.receiver import Receiver

WAIT_S = 20.0
HOUR = 3_600_000  #: milliseconds


class Clock:
    """UTC milliseconds: the real time at first, because receivers check it, and then as it is moved."""

    def __init__(self) -> None:
        self.ms = round(datetime.datetime.now(datetime.UTC).timestamp() * 1000)

    def __call__(self) -> int:
        return self.ms


class Post:
    """Everything of notifications over one store."""

    def __init__(
        self, store: Store, directory: Path, *, mail: MailServer | None = None, policy: Policy | None = None,
        ca_file: str = "",
    ) -> None:  # fmt: skip
        self.store, self.clock = store, Clock()
        policy = policy or Policy()
        box = SecretBox(directory / "secrets.key")
        teller = Teller(id="n" * 52, name="Berlin", url="https://ods.example.com")
        common: dict[str, Any] = {"store": store, "now": self.clock}
        self.destinations = Destinations(
            **common, box=box, policy=policy, teller=teller, mail_is_set_up=mail is not None
        )
        self.deliveries = Deliveries(**common, destinations=self.destinations, jitter=lambda: 0.5)
        self.outbox = Outbox(**common, destinations=self.destinations, deliveries=self.deliveries)
        self.threads = ThreadPoolExecutor(2)
        sending = Sending(
            **common, destinations=self.destinations, deliveries=self.deliveries, policy=policy, teller=teller,
            mail=mail, trust=lambda: client_context(pinned=False, ca_file=ca_file),
        )  # fmt: skip
        self.all = Notifications(
            destinations=self.destinations, deliveries=self.deliveries, outbox=self.outbox, sending=sending,
            threads=self.threads,
        )  # fmt: skip
        self.runner = Runner(
            store, worker_id="w", transfer_slots=1, hash_slots=1, default_slots=1, delivery_slots=2, lease_s=30,
            now=self.clock, jitter=lambda: 0.5, poll_s=0.02,
        )  # fmt: skip
        self.runner.register(SEND_JOB, sending.run, queue="delivery")

    async def hook(self, receiver: Receiver, **given: Any) -> tuple[str, str]:
        """A webhook to the receiver: its id and its secret."""
        made, secret = await self.destinations.add(
            {"name": "hook", "kind": "webhook", "url": receiver.url, "allow_private": True, **given},
            actor="a",
        )
        return made.id, secret

    async def happen(self, *names: str, type: EventType = EventType.PACKAGE_PUBLISHED) -> None:
        """Events, about packages of these names."""
        for name in names:
            event = entry(type, at=self.clock(), actor="anna", subject=f"id-{name}", filename=name)
            await self.store.batch([event])

    async def turn(self) -> None:
        """What the outbox does in one round, and the jobs that follow."""
        while await self.outbox.relay():
            pass
        await self.outbox.wake()
        async with asyncio.timeout(WAIT_S):
            while not await self._idle():
                await asyncio.sleep(0.005)

    async def _idle(self) -> bool:
        jobs = await self.store.find_jobs({"name": SEND_JOB}, limit=500)
        return all(job.state == "done" for job in jobs)

    async def rows(self, **where: Any) -> list[Doc]:
        return await self.store.find("deliveries", where, order="seq", limit=500)

    async def states(self) -> list[str]:
        return [row["state"] for row in await self.rows()]


def run_post(directory: Path, test: Callable[[Post], Awaitable[None]], **options: Any) -> None:
    """Run a test with a post; the runner runs, and all is ended afterwards."""

    async def opened() -> None:
        store = await open_store("", directory)
        made = Post(store, directory, **options)
        try:
            await made.outbox.relay()
            await made.runner.start()
            await test(made)
        finally:
            await made.runner.stop(20)
            made.threads.shutdown()
            await store.close()

    asyncio.run(opened())
