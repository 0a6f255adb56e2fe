"""`ods user reset`: the way back in for who has the machine and no password."""

import asyncio
import secrets
from pathlib import Path

import click

from appliance.domain.errors import AccountUnknown, InvalidSettings
from appliance.store.layout import Layout
from config.settings import Settings

from .command import command
from .options import local
from .output import Output


@command("reset")
@click.argument("name", default="admin")
@local
@click.pass_obj
def reset(output: Output, settings: Settings, name: str) -> None:
    """Give the account NAME a new random password, on this machine's node. Its role stays.

    It writes to the node's database directly, whether the node runs or not.
    """
    layout = Layout(Path(settings.data_dir).absolute())
    if not (layout.identity / "node.key").exists():
        raise InvalidSettings(f"{layout.root} is no node's data directory; give --data-dir or --config.")
    password = secrets.token_urlsafe(18)
    role = asyncio.run(_reset(settings, layout, name, password))
    if output.json:
        output.data({"name": name, "role": role, "password": password})
    else:
        output.line(f"New password for {name} ({role}):  {password}  (shown only now)")


async def _reset(settings: Settings, layout: Layout, name: str, password: str) -> str:
    """Set the password; return the account's role."""
    from appliance.bootstrap import now_ms  # noqa: PLC0415
    from appliance.service.accounts import Accounts  # noqa: PLC0415
    from appliance.service.journal import SYSTEM  # noqa: PLC0415
    from appliance.store.opening import open_store  # noqa: PLC0415

    store = await open_store(settings.database.url, layout.root)
    try:
        accounts = Accounts(store, now_ms)
        known = ", ".join(sorted(doc["_id"] for doc in await accounts.users())) or "none; start the node once"
        try:
            changed = await accounts.change_user(name, password=password, actor=SYSTEM)
        except AccountUnknown as exc:
            raise AccountUnknown(
                f'There is no account "{name}". There are: {known}. Nothing changed.'
            ) from exc
        return str(changed["role"])
    finally:
        await store.close()
