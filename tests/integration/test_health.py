"""/health and /metrics over HTTP, with a real store that can be taken away."""

import asyncio
import errno
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import tornado.httpserver
import tornado.web
from prometheus_client.parser import text_string_to_metric_families

from appliance.api.health import ROUTES, is_local
from appliance.domain.errors import StoreUnavailable
from appliance.domain.job import Job
from appliance.domain.trash import Keeping
from appliance.jobs.supervisor import Supervisor
from appliance.log import AccessLog
from appliance.server import listen
from appliance.service.catalogue import Catalogue
from appliance.service.metrics import Metrics
from appliance.service.probe import Probe
from appliance.service.system import (
    HEARTBEAT_LIMIT_S,
    UNCLAIMED_MS,
    System,
    resident_bytes,
    write_and_read,
)
from appliance.service.trash import Trash
from appliance.service.watchdog import Watchdog
from appliance.store.blobs import BlobStore
from appliance.store.layout import Layout
from appliance.store.opening import open_store

NOW = 1_800_000_000_000  #: UTC milliseconds


class Site:
    """An application with these routes only, and the switches to make it ill."""

    def __init__(self, store: Any, data_dir: Path) -> None:
        self.real = store
        self.down = False
        self.hanging = False
        self.pings = 0
        self.age = 0.0
        self.trash = Trash(
            store=self,  # type: ignore[arg-type]
            catalogue=Catalogue(store),
            blobs=BlobStore(Layout(data_dir), floor_bytes=0),
            keeping=Keeping(days=7, versions=2),
            now=lambda: NOW,
        )
        self.metrics = Metrics(version="1", python="3", database="sqlite")
        self.system = System(
            store=self,  # type: ignore[arg-type]
            catalogue=Catalogue(store),
            data_dir=data_dir,
            min_free_bytes=0,
            version="1.2.3",
            database="sqlite",
            heartbeat_age=lambda: self.age,
            supervisor=Supervisor(now=lambda: NOW),
            now=lambda: NOW,
            trash=self.trash.usage,
            uploads=lambda: 0,
        )
        self.base = ""

    async def ping(self) -> None:
        self.pings += 1
        if self.hanging:
            await asyncio.sleep(60)
        if self.down:
            raise StoreUnavailable()
        await self.real.ping()

    async def count(self, collection: str, where: Any) -> int:
        if self.down:
            raise StoreUnavailable()
        return int(await self.real.count(collection, where))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    async def get(self, path: str, **headers: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.base) as client:
            return await client.get(path, headers=headers)

    def forget(self) -> None:
        """Let the next question be answered afresh."""
        self.system._checked = None


@pytest.fixture
def site(tmp_path: Path) -> Callable[[Callable[[Site], Awaitable[None]]], None]:
    def run(test: Callable[[Site], Awaitable[None]]) -> None:
        async def served() -> None:
            store = await open_store("", tmp_path)
            site = Site(store, tmp_path)
            identity = SimpleNamespace(node_id="a" * 52)
            watchdog = Watchdog(
                store=store, catalogue=Catalogue(store), after_s=600, node_id="a" * 52, now=lambda: NOW
            )

            async def refresh() -> None:
                """The scrub has no figures."""

            app = SimpleNamespace(
                system=site.system,
                metrics=site.metrics,
                identity=identity,
                watchdog=watchdog,
                trash=site.trash,
                scrub=SimpleNamespace(refresh=refresh),
            )
            server = tornado.httpserver.HTTPServer(
                tornado.web.Application(ROUTES, app=app, log_function=AccessLog(site.metrics.observe_request))
            )
            [sock] = listen("127.0.0.1", 0)
            site.base = f"http://127.0.0.1:{sock.getsockname()[1]}"
            server.add_sockets([sock])
            try:
                await test(site)
            finally:
                server.stop()
                await server.close_all_connections()
                await store.close()

        asyncio.run(served())

    return run


def test_all_is_well(site: Any) -> None:
    async def test(site: Site) -> None:
        assert (await site.get("/health/live")).json() == {"status": "live"}
        answer = await site.get("/health/ready")
        assert answer.status_code == 200
        assert answer.json() == {
            "status": "ready",
            "checks": {
                name: {"ok": True, "reason": ""} for name in ("store", "disk", "worker", "twin", "serving")
            },
            "warnings": [],
        }

    site(test)


@pytest.mark.parametrize(
    ("ill", "reason"),
    [
        ("store", "The database does not answer."),
        ("disk", "have to stay free (transfers.min_free)."),
        ("worker", "The worker has taken no jobs for a while."),
        ("serving", "The node is stopping."),
    ],
)
def test_each_illness_is_named_while_the_process_lives(site: Any, ill: str, reason: str) -> None:
    async def test(site: Site) -> None:
        if ill == "store":
            site.down = True
        elif ill == "disk":
            site.system._floor = 1 << 62
        elif ill == "worker":
            site.age = HEARTBEAT_LIMIT_S + 1
        else:
            assert (await site.get("/health/ready")).status_code == 200
            site.system.drain()  # shows at once, whatever was answered a moment ago
        answer = await site.get("/health/ready")
        assert answer.status_code == 503
        checks = answer.json()["checks"]
        check = checks.pop(ill)
        assert not check["ok"]
        assert reason in check["reason"]
        assert all(check["ok"] for check in checks.values())
        assert (await site.get("/health/live")).status_code == 200

    site(test)


def job(id: str, run_at: int) -> Job:
    return Job(
        id=id, queue="transfer", name="transfer.fetch", args={}, key=id, run_at=run_at, created_at=run_at
    )


def test_a_node_without_a_worker_is_told_apart_from_one_whose_worker_is_busy(site: Any) -> None:
    async def test(site: Site) -> None:
        site.system._heartbeat_age = None  # `ods serve --no-worker`
        await site.real.enqueue(job("fresh", NOW - UNCLAIMED_MS + 1))
        assert (await site.get("/health/ready")).status_code == 200
        await site.real.enqueue(job("late", NOW - UNCLAIMED_MS - 1))
        site.forget()
        answer = await site.get("/health/ready")
        assert answer.status_code == 503
        assert "ods worker" in answer.json()["checks"]["worker"]["reason"]
        [claimed] = await site.real.claim("transfer", "w", now=NOW, lease_ms=30_000)
        assert claimed.id == "late"
        await site.real.enqueue(job("next", NOW - UNCLAIMED_MS - 1))
        site.forget()
        assert (await site.get("/health/ready")).status_code == 200
        site.down = True
        site.forget()
        checks = (await site.get("/health/ready")).json()["checks"]
        assert (checks["store"]["ok"], checks["worker"]["ok"]) == (False, True)

    site(test)


def test_the_data_directory_gone_is_an_illness_of_the_disk(site: Any, tmp_path: Path) -> None:
    async def test(site: Site) -> None:
        gone = tmp_path / "gone"
        gone.mkdir()
        site.system._data_dir = gone
        shutil.rmtree(gone)
        answer = await site.get("/health/ready")
        assert answer.json()["checks"]["disk"] == {
            "ok": False,
            "reason": "The data directory cannot be read.",
        }
        assert str(tmp_path) not in answer.text

    site(test)


def test_a_store_that_hangs_is_given_two_seconds(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.service.system.PING_TIMEOUT_S", 0.05)

    async def test(site: Site) -> None:
        site.hanging = True
        assert (await site.get("/health/ready")).json()["checks"]["store"]["ok"] is False

    site(test)


def test_what_a_ping_does_not_show(site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(site: Site) -> None:
        faults = ["The folder blobs is missing."]
        site.system._folder_faults = lambda: faults
        site.system._store_probe = Probe(lambda: write_and_read(site.real, "x"), silent="It hangs.")
        answer = (await site.get("/health/ready")).json()["checks"]
        assert answer["folders"] == {"ok": False, "reason": "The folder blobs is missing."}
        assert answer["store"]["ok"]
        faults.clear()
        site.forget()
        assert (await site.get("/health/ready")).status_code == 200
        assert (await site.real.get("node", "probe"))["token"] == "x"
        assert not list(tmp_path.glob(".probe*")), "nothing is left"

        def refuse(*_: object) -> int:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr("appliance.service.system.os.fsync", refuse)
            site.system._disk_probe._ended = 0.0
            site.forget()
            answer = (await site.get("/health/ready")).json()["checks"]["disk"]
            assert answer == {"ok": False, "reason": "The disk does not work: Input/output error."}

    site(test)


def test_it_is_red_during_an_outage_and_green_after_it(site: Any) -> None:
    async def test(site: Site) -> None:
        for down, status in ((False, 200), (True, 503), (False, 200)):
            site.down = down
            site.forget()
            assert (await site.get("/health/ready")).status_code == status

    site(test)


def test_many_questions_are_one_ping(site: Any) -> None:
    async def test(site: Site) -> None:
        answers = await asyncio.gather(*(site.get("/health/ready") for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert site.pings == 1

    site(test)


def test_head_is_answered_for_load_balancers(site: Any) -> None:
    async def test(site: Site) -> None:
        async with httpx.AsyncClient(base_url=site.base) as client:
            for path in ("/health/live", "/health/ready"):
                answer = await client.head(path)
                assert (answer.status_code, answer.content) == (200, b"")

    site(test)


def test_local_readers_get_the_metrics_without_signing_in(site: Any) -> None:
    async def test(site: Site) -> None:
        await site.get("/health/live")
        answer = await site.get("/metrics")
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        counted = {
            (sample.labels["route"], sample.labels["status"]): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
            if sample.name == "ods_http_requests_total"
        }
        assert counted == {("LiveHandler", "200"): 1.0}

    site(test)


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Real-Ip", "Forwarded", "Via"])
def test_what_a_local_proxy_passes_on_must_sign_in(site: Any, header: str) -> None:
    async def test(site: Site) -> None:
        answer = await site.get("/metrics", **{header: "127.0.0.1"})
        assert answer.status_code == 401
        assert answer.headers["Content-Type"].startswith("application/problem+json")
        assert "ods_" not in answer.text

    site(test)


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("192.0.2.1", False),
        ("::ffff:192.0.2.1", False),
        ("0.0.0.0", False),
        ("", False),
    ],
)
def test_which_addresses_are_this_machine(address: str, local: bool) -> None:
    assert is_local(SimpleNamespace(headers={}, remote_ip=address)) is local  # type: ignore[arg-type]


def test_the_report_tells_disk_memory_age_and_counts(site: Any) -> None:
    async def test(site: Site) -> None:
        await site.real.enqueue(Job(id="a", queue="hash", name="x", run_at=1))
        report = await site.system.report()
        assert (report.version, report.database) == ("1.2.3", "sqlite")
        assert 0 < report.disk.free <= report.disk.total
        assert report.uptime_s >= 0
        assert report.counts["jobs_waiting"] == 1
        assert report.counts["packages"] == 0
        site.down = True
        report = await site.system.report()
        assert report.counts["jobs_waiting"] is None  # unknown, not nothing
        assert report.counts["packages"] == 0

    site(test)


def test_resident_memory_is_plausible() -> None:
    size = resident_bytes()
    assert size is not None
    assert 5 * 1024**2 < size < 4 * 1024**3
