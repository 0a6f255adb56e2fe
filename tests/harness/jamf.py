"""A node connected to a fake Jamf Pro."""

from typing import Any

from tests.fakes.jamf import FakeJamf

from .node import NodeProcess


def connect(node: NodeProcess, jamf: FakeJamf, *, webhooks: bool = False, **sections: Any) -> str:
    """Configure a Jamf Pro server on a node as an admin does; return its id.

    Args:
        node: The node that becomes the bridge.
        jamf: The server.
        webhooks: Whether Jamf Pro is to send them to the node.
        **sections: Further sections of the configuration, such as `intake={"poll_s": 5}`.
    """
    fields: dict[str, Any] = {
        "name": "Jamf",
        "kind": "jamf",
        "settings": {
            "url": jamf.url,
            "client_id": jamf.client_id,
            "client_secret": jamf.client_secret,
            "insecure": True,
        },
        "intake": {"poll_s": 5},
        "webhooks": {"register_at": node.url, "debounce_s": 0.5} if webhooks else {"enabled": False},
    }
    for name, section in sections.items():
        fields[name] = {**fields.get(name, {}), **section} if isinstance(section, dict) else section
    made = node.api("POST", "/mdm/servers", fields)
    return str(made["id"])


def server_of(node: NodeProcess) -> dict[str, Any]:
    """The one configured server."""
    found: dict[str, Any] = node.api("GET", "/mdm/servers")["items"][0]
    return found


def digest_of(node: NodeProcess, file_name: str) -> str:
    """SHA3-512 of what a node serves under a name, "" if it does not."""
    import hashlib

    answer = node.download(file_name)
    return hashlib.sha3_512(answer.body).hexdigest() if answer.status == 200 else ""
