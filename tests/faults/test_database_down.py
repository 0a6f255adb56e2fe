"""The database is away: the node says so, downloads go on, and work resumes by itself."""

from pathlib import Path

import pytest

from tests.builders import MIB, make_file
from tests.fakes.mongod import Mongod
from tests.harness import Network, eventually

pytestmark = pytest.mark.mongo


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_downloads_go_on_and_work_resumes(
    network: Network, tmp_path: Path, own_mongod: Mongod, how: str
) -> None:
    a = network.node("a", proxied=True)
    b = network.node("b", database_url=own_mongod.url("b"))
    b.join(a)
    old, new = make_file(tmp_path / "old.pkg", 8 * MIB, 1), make_file(tmp_path / "new.pkg", 40 * MIB, 2)
    a.publish(old.path)
    b.wait_holds(old.name, old.sha256)
    network.proxies["a"].limit(12 * MIB)
    a.publish(new.path)
    sent = network.proxies["a"].sent
    eventually(lambda: network.proxies["a"].sent > sent + 8 * MIB, 20, "the transfer does not begin")

    if how == "killed":
        own_mongod.kill()
    else:
        own_mongod.freeze()
    eventually(lambda: b.status("/health/ready") == 503, 20, "ready stays green")
    checks = b.request("GET", "/health/ready", anonymous=True).json()["checks"]
    assert checks["store"] == {"ok": False, "reason": "The database does not answer."}
    assert b.status("/health/live") == 200
    assert b.sha1(old.name) == old.sha1
    assert b.download(old.name, {"Range": "bytes=5-9"}).status == 206
    upload = b.upload(make_file(tmp_path / "late.pkg", MIB).path)
    assert upload.status == 503, upload
    assert upload.json()["code"] == "store_unavailable"
    assert b.running

    if how == "killed":
        own_mongod.start()
    else:
        own_mongod.thaw()
    eventually(lambda: b.status("/health/ready") == 200, 40, "ready stays red")
    network.proxies["a"].limit(0)
    b.wait_holds(new.name, new.sha256, 90)
    assert b.sha1(new.name) == new.sha1
    assert b.upload(make_file(tmp_path / "late.pkg", MIB).path).status == 201
    assert network.proxies["a"].sent < old.size + new.size + 33 * MIB
