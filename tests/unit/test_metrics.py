import asyncio
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from appliance.jobs.supervisor import Supervisor
from appliance.service.metrics import LoopLag, Metrics, Sources


def make() -> Metrics:
    return Metrics(version="1.2.3", python="3.11", database="sqlite")


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def test_every_promised_metric_is_there() -> None:
    metrics = make()
    metrics.watch(
        Sources(
            packages=dict,
            peers=dict,
            jobs_running=dict,
            disk_free=lambda: 5,
            records_skipped=lambda: 0,
            trash=lambda: (0, 0),
        )
    )
    names = {family.name for family in text_string_to_metric_families(metrics.render().decode())}
    assert names >= {
        "ods_http_requests",
        "ods_http_request_seconds",
        "ods_download_bytes",
        "ods_upload_bytes",
        "ods_peer_content_bytes",
        "ods_fetched_bytes",
        "ods_chunk_failures",
        "ods_peer_refusals",
        "ods_jobs",
        "ods_jobs_running",
        "ods_job_seconds",
        "ods_packages",
        "ods_disk_free_bytes",
        "ods_peers",
        "ods_event_loop_lag_seconds",
        "ods_connections_refused",
        "ods_background_task_failures",
        "ods_records_skipped",
        "ods_build_info",
        "process_resident_memory_bytes",
    }
    assert not any(name.endswith("_created") for name in names)


def test_what_happens_is_counted() -> None:
    metrics = make()
    metrics.downloaded(10)
    metrics.uploaded(20)
    metrics.sent_to_peers(30)
    metrics.fetched("n1", 40)
    metrics.fetched("n1", 2)
    metrics.chunk_failure("n1", "chunk_invalid")
    metrics.peer_refused("clock_skew")
    metrics.observe_job("package.verify", "done", 0.1)
    got = samples(metrics)
    assert got["ods_download_bytes_total", ()] == 10
    assert got["ods_upload_bytes_total", ()] == 20
    assert got["ods_peer_content_bytes_total", ()] == 30
    assert got["ods_fetched_bytes_total", (("peer", "n1"),)] == 42
    assert got["ods_chunk_failures_total", (("peer", "n1"), ("reason", "chunk_invalid"))] == 1
    assert got["ods_peer_refusals_total", (("reason", "clock_skew"),)] == 1
    assert got["ods_jobs_total", (("name", "package.verify"), ("outcome", "done"))] == 1
    assert got["ods_job_seconds_count", (("name", "package.verify"),)] == 1
    build = (("database", "sqlite"), ("python", "3.11"), ("version", "1.2.3"))
    assert got["ods_build_info", build] == 1


def test_a_client_cannot_invent_labels() -> None:
    metrics = make()
    for n in range(50):
        metrics.observe_request(f"X{n}", "PackagesHandler", 405, 0.01)
    metrics.observe_request("GET", "PackagesHandler", 200, 0.01)
    methods = {labels for name, labels in samples(metrics) if name == "ods_http_requests_total"}
    assert len(methods) == 2


def test_a_peer_that_left_is_forgotten() -> None:
    metrics = make()
    for peer in ("n1", "n2"):
        metrics.fetched(peer, 1)
        metrics.chunk_failure(peer, "x")
        metrics.chunk_failure(peer, "y")
    metrics.forget_peer("n1")
    metrics.forget_peer("never known")
    text = metrics.render().decode()
    assert "n1" not in text
    assert text.count('peer="n2"') == 3


def test_figures_of_others_are_read_when_the_page_is() -> None:
    metrics = make()
    held = {"held": 1}
    metrics.watch(
        Sources(
            packages=lambda: held,
            peers=lambda: {"active": 3},
            jobs_running=lambda: {"hash": 2},
            disk_free=lambda: 12_345,
            records_skipped=lambda: 3,
            trash=lambda: (2, 7),
        )
    )
    assert samples(metrics)["ods_packages", (("presence", "held"),)] == 1
    held["held"] = 7
    got = samples(metrics)
    assert got["ods_packages", (("presence", "held"),)] == 7
    assert got["ods_peers", (("state", "active"),)] == 3
    assert got["ods_jobs_running", (("queue", "hash"),)] == 2
    assert got["ods_disk_free_bytes", ()] == 12_345
    assert got["ods_records_skipped", ()] == 3
    assert (got["ods_trash_versions", ()], got["ods_trash_bytes", ()]) == (2, 7)


def test_a_disk_that_does_not_answer_hides_nothing_else() -> None:
    def broken() -> int:
        raise OSError("stale file handle")

    metrics = make()
    figures = {"packages": lambda: {"held": 1}, "peers": dict, "jobs_running": dict}
    more = {"records_skipped": lambda: 0, "trash": lambda: (2, 7)}
    metrics.watch(Sources(**figures, **more, disk_free=broken))  # type: ignore[arg-type]
    got = samples(metrics)
    assert got["ods_packages", (("presence", "held"),)] == 1
    assert ("ods_disk_free_bytes", ()) not in got


def test_two_nodes_in_one_process_do_not_share_figures() -> None:
    one, two = make(), make()
    one.downloaded(5)
    assert samples(two)["ods_download_bytes_total", ()] == 0


def test_a_blocked_loop_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.service.metrics._LAG_PERIOD_S", 0.01)
    metrics = make()

    async def block() -> None:
        import time

        lag = LoopLag(metrics.event_loop_lag_seconds, Supervisor(now=lambda: 0))
        await lag.start()
        await asyncio.sleep(0)
        time.sleep(0.1)  # what must never be done, done on purpose
        figure: Any = 0
        for _ in range(200):
            await asyncio.sleep(0.005)
            figure = samples(metrics)["ods_event_loop_lag_seconds", ()]
            if figure:
                break
        await lag.stop()
        assert figure >= 0.05

    asyncio.run(block())
