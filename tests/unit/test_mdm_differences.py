"""What the audit log says of a changed MDM server."""

from pathlib import Path

from jamf_bridge.servers.secret_fields import MASK
from tests.unit.test_mdm_servers import FIELDS, SECRET, World, in_world


def test_the_log_has_before_and_after_and_no_secret(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        server = await world.servers.add(FIELDS, actor="admin")
        changed = {
            "settings": {
                "url": "https://new.example",
                "client_secret": "changed-word",
                "proxy": {"host": "p2"},
            },
            "points": {"password": None},
            "hook_secret": "secret-of-the-webhooks",
        }
        await world.servers.change(server.id, changed, actor="anna")
        (event,) = await world.store.find("events", {"type": "mdm.changed"})
        assert event["data"]["before"] == {
            "settings.url": "https://mdm.example",
            "settings.client_secret": MASK,
            "settings.proxy": {"host": "proxy.example", "password": MASK},
            "points.password": MASK,
            "hook_secret": MASK,
        }
        assert event["data"]["after"] == {
            "settings.url": "https://new.example",
            "settings.client_secret": "another secret",
            "settings.proxy": {"host": "p2", "password": MASK},
            "points.password": "",
            "hook_secret": "another secret",
        }
        stored = await world.stored()
        assert not any(secret in stored for secret in ("changed-word", SECRET, "secret-of-the-webhooks"))

    in_world(tmp_path, test)
