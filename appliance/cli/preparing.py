"""What `ods init` does: everything that a first start would make, and no more."""

import asyncio
from pathlib import Path
from typing import Any

from appliance.bootstrap import find_place, now_ms
from appliance.peering.identity import Identity
from appliance.service.accounts import FIRST, Accounts
from appliance.service.secrets import SecretBox
from appliance.store.blobs import BlobStore
from appliance.store.layout import Layout
from appliance.store.opening import open_store
from config.settings import Settings


def prepare(settings: Settings) -> dict[str, Any]:
    """Make data directory, keys, certificate, database and first account, where they are missing.

    Returns:
        data_dir, node_id, url, database, tls_fingerprint, and account and password if that was made up now.

    Raises:
        InvalidSettings: The settings cannot be used on this machine.
        StoreUnavailable: The database does not answer.
    """
    layout = Layout(Path(settings.data_dir).absolute())
    BlobStore(layout, floor_bytes=settings.transfers.min_free)
    place = find_place(settings, layout)
    identity = Identity.load_or_create(layout.identity / "node.key")
    SecretBox(layout.identity / "secrets.key")
    password = asyncio.run(_first_account(settings, layout))
    return {
        "data_dir": str(layout.root),
        "node_id": identity.node_id,
        "url": place.url,
        "database": "mongodb" if settings.database.url else "sqlite",
        "tls_fingerprint": place.tls_fingerprint,
        "account": FIRST,
        "password": password or "",
    }


async def _first_account(settings: Settings, layout: Layout) -> str | None:
    store = await open_store(settings.database.url, layout.root)
    try:
        return await Accounts(store, now_ms).ensure_first(settings.admin.password)
    finally:
        await store.close()
