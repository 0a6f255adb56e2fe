"""The overview names what needs attention, and leads to where it can be mended."""

import asyncio
import datetime
import html
import re
from pathlib import Path

from appliance.domain.record import RecordKind
from appliance.service.records import record_doc
from appliance.service.vigil import CERTIFICATE
from appliance.store.opening import open_store
from tests.builders import make_file
from tests.fakes.peer import FakePeer
from tests.harness import Network, NodeProcess, eventually
from tests.harness.browser_client import BrowserClient
from tests.harness.command import ods
from tests.harness.node import PASSWORD

DIRECTORY = {
    "DIRECTORY_SERVERS": "ldaps://127.0.0.1:1",
    "DIRECTORY_BASE_DN": "dc=example,dc=com",
    "DIRECTORY_GROUPS": "staff=viewer",
}
MDM = {
    "name": "Far Jamf",
    "kind": "jamf",
    "settings": {"url": "https://127.0.0.1:1", "client_id": "id", "client_secret": "secret"},
}
WEBHOOK = {"name": "Deaf chat", "kind": "webhook", "url": "http://127.0.0.1:1/", "allow_private": True}


def overview(node: NodeProcess, name: str) -> str:
    person = BrowserClient(node)
    person.sign_in(name)
    return person.get("/ui/").body.decode()


def test_connections_that_fail(network: Network) -> None:
    node = network.node("a", **DIRECTORY)
    node.api("POST", "/users", {"name": "viewer", "password": PASSWORD, "role": "viewer"})
    assert "all is well" in overview(node, "admin")
    server = node.api("POST", "/mdm/servers", MDM)
    destination = node.api("POST", "/destinations", WEBHOOK)
    node.api("POST", "/directory/test")
    eventually(
        lambda: node.api("GET", f"/mdm/servers/{server['id']}")["state"] == "unreachable", 60, node.tail
    )
    eventually(lambda: node.api("GET", f"/destinations/{destination['id']}")["failing_since"], 60, node.tail)
    page = overview(node, "admin")
    for text, address in (
        ("Far Jamf: https://127.0.0.1:1 cannot be reached: Connection refused.", f"/ui/mdm/{server['id']}"),
        ("Deaf chat takes no notifications", f"/ui/notifications/{destination['id']}"),
        ("The directory server ldaps://127.0.0.1:1 is down", "/ui/directory"),
    ):
        assert text in page
        assert f'href="{address}"' in page
    assert "all is well" not in page
    seen = overview(node, "viewer")
    assert "Far Jamf" in seen
    assert "Deaf chat takes no" not in seen, "only operators see where notifications go"


def test_a_certificate_that_ends(network: Network) -> None:
    node = network.node("a")
    node.stop()
    ends = datetime.datetime(2030, 5, 17, tzinfo=datetime.UTC)

    async def note() -> None:
        store = await open_store("", node.data)
        notice = {
            "_id": CERTIFICATE,
            "fingerprint": "0" * 64,
            "days": 7,
            "ends_at": int(ends.timestamp() * 1000),
        }
        await store.insert("notices", notice)
        await store.close()

    asyncio.run(note())
    node.start()
    assert "The TLS certificate of this node ends on 2030-05-17." in overview(node, "admin")


def test_clocks_stages_and_records_that_are_odd(network: Network) -> None:
    node = network.node("a")
    with FakePeer("elsewhere", stage="qa") as peer:
        peer.clock_s = 25
        peer.join(node.invite(), stages=["dev", "test", "qa", "prod"])
        eventually(lambda: node.events("peer.clock"), 30, "no event tells of the clock")
        [event] = node.events("peer.clock")
        assert 23 <= event["data"]["offset_s"] <= 27
        page = overview(node, "admin")
        assert re.search(r"The clock of elsewhere is 2\d s ahead of this node&#39;s", page)
        assert "elsewhere has the stage &#34;qa&#34;, which is not in node.stages" in page
        shown = node.api("GET", f"/peers/{peer.id}")
        assert 23 <= shown["clock_offset_s"] <= 27
        assert "qa only at the peer" in shown["notice"]
        listed = ods(node, "peer", "list")
        assert "s ahead" in listed.stdout
        node.stop()
    own = peer.sign(RecordKind.NODE, peer.id, {"name": 5})
    ahead = peer.sign(RecordKind.NODE, peer.id, dict(peer.record().body), 2**43)

    async def put() -> None:
        store = await open_store("", node.data)
        await store.replace("records", record_doc(ahead))
        await store.replace("records", {**record_doc(own), "_id": "node:x"})
        await store.close()

    asyncio.run(put())  # while the peer is away: a record that is not ahead outranks the one that is
    node.start()
    page = overview(node, "admin")
    assert "1 stored record breaks a rule and is skipped." in page
    assert "1 stored record is more than an hour ahead of this node&#39;s clock" in page


def test_the_next_page_of_the_matrix_keeps_the_search(network: Network, tmp_path: Path) -> None:
    node = network.node("a")
    for number in range(26):
        node.publish(make_file(tmp_path / f"R&D #{number:02}.pkg", 10 + number, number).path)
    person = BrowserClient(node)
    person.sign_in("admin")
    page = person.get("/ui/replication?q=R%26D%20%23").body.decode()
    assert "25 of 26" in page
    (following,) = re.findall(r'href="(/ui/replication\?cursor=[^"]+)"', page)
    last = person.get(html.unescape(following)).body.decode()
    assert "R&amp;D #25.pkg" in last
    assert 'value="R&amp;D #"' in last
