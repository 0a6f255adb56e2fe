"""The overview names what needs attention, and leads to where it can be mended."""

from tests.harness import Network, NodeProcess, eventually
from tests.harness.browser_client import BrowserClient
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
