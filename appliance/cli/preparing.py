"""What `ods init` does: everything that a first start would make, and no more."""

import asyncio
from pathlib import Path
from typing import Any

from appliance.bootstrap import Place, find_place, now_ms
from appliance.peering.identity import Identity
from appliance.service.accounts import FIRST, Accounts
from appliance.service.node_keys import (
    begin_empty,
    new_identity,
    new_secrets_key,
    open_keys,
    refuse_lost,
    refuse_lost_file,
)
from appliance.store.blobs import BlobStore
from appliance.store.filesystem import lock_directory
from appliance.store.layout import Layout
from appliance.store.opening import FILE_NAME, open_store
from config.settings import Settings


def prepare(settings: Settings, *, new: str = "") -> dict[str, Any]:
    """Make data directory, keys, certificate, database and first account, where they are missing.

    Args:
        settings: Of the node.
        new: "identity", "secrets-key" or "empty-database": what was lost for good, and is made anew on purpose.

    Returns:
        data_dir, node_id, url, database, tls_fingerprint, and account and password if that was made up now.

    Raises:
        InvalidSettings: The settings cannot be used on this machine, or keys and database do not belong together.
        Conflict: The database that is to be empty is not.
        StoreUnavailable: The database does not answer.
    """
    layout = Layout(Path(settings.data_dir).absolute())
    BlobStore(layout, floor_bytes=settings.transfers.min_free)
    place = find_place(settings, layout)
    if not settings.database.url and new != "empty-database":
        refuse_lost_file(layout, layout.root / FILE_NAME)
    if new:
        lock_directory(layout.root)
    identity, password = asyncio.run(_prepare_store(settings, layout, place, new))
    return {
        "data_dir": str(layout.root),
        "node_id": identity.node_id,
        "url": place.url,
        "database": "mongodb" if settings.database.url else "sqlite",
        "tls_fingerprint": place.tls_fingerprint,
        "account": FIRST,
        "password": password or "",
    }


async def _prepare_store(
    settings: Settings, layout: Layout, place: Place, new: str
) -> tuple[Identity, str | None]:
    store = await open_store(settings.database.url, layout.root)
    try:
        match new:
            case "empty-database":
                await begin_empty(store, layout)
            case "identity":
                await refuse_lost(store, layout)
                await new_identity(store, layout, now_ms)
            case "secrets-key":
                await refuse_lost(store, layout)
                await new_secrets_key(store, layout)
        keys = await open_keys(store, layout, create=True, now=now_ms)
        place.keep()
        return keys.identity, await Accounts(store, now_ms).ensure_first(settings.admin.password)
    finally:
        await store.close()
