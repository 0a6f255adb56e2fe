"""A background task of a real node that fails: restarted, counted, shown, and nobody else's business."""

import asyncio
from pathlib import Path

from appliance.store.opening import open_store
from tests.harness import Network, NodeProcess, eventually
from tests.harness.command import ods

from .test_web_attention import overview


def set_position(node: NodeProcess, seq: object) -> None:
    """Change how far the node's coverage has read the change feed."""

    async def run() -> None:
        store = await open_store(node.settings["DATABASE_URL"], node.data)
        await store.replace("followers", {"_id": "coverage", "seq": seq})
        await store.close()

    asyncio.run(run())


def position(node: NodeProcess) -> object:
    """How far coverage has read."""

    async def run() -> object:
        store = await open_store(node.settings["DATABASE_URL"], node.data)
        doc = await store.get("followers", "coverage")
        await store.close()
        return doc["seq"] if doc else None

    return asyncio.run(run())


def test_a_task_that_fails_is_shown_until_it_works(any_network: Network, tmp_path: Path) -> None:
    node = any_network.node("solo")
    node.stop()
    set_position(node, "no number")
    node.start()
    eventually(
        lambda: node.metric("ods_background_task_failures_total", task="coverage") >= 3,
        20,
        "it is not restarted",
    )
    assert node.status("/health/ready") == 200, "Macs get their packages all the same"
    warnings = eventually(
        lambda: node.request("GET", "/health/ready", anonymous=True).json()["warnings"], 5, "nobody is told"
    )
    assert warnings == ["The background task coverage keeps failing; the log says why."]
    assert "coverage keeps failing" in ods(node, "status").stdout
    assert "The background task coverage failed and is retried" in overview(node, "admin")
    assert [event["data"]["task"] for event in node.events("task.failed")] == ["coverage"]
    assert [line["task"] for line in node.lines("task_failed")] == ["coverage"], "once for a kind of failure"
    (tmp_path / "x.pkg").write_bytes(b"x")
    node.publish(tmp_path / "x.pkg")
    assert node.head("x.pkg").status == 200
    set_position(node, 0)
    eventually(lambda: position(node) not in {0, "no number"}, 60, "it does not go on")
