"""Choosing and opening the metadata store."""

from pathlib import Path

from appliance.domain.errors import ApplianceError, InvalidSettings

from .migrations import migrate, refuse_newer
from .ports import Store
from .sqlite.store import open_sqlite

FILE_NAME = "ods.sqlite3"


async def open_store(url: str | None, data_dir: Path) -> Store:
    """Open the store that the settings name, and bring it up to date. It belongs to the running event loop.

    Args:
        url: `mongodb://…` or `mongodb+srv://…`; empty or None for the SQLite file in `data_dir`.
        data_dir: Where the node keeps its files.

    Raises:
        InvalidSettings: The URL or the database cannot be used; the message says what to do.
        StoreUnavailable: The database does not answer.
    """
    store = await _open(url or "", data_dir)
    try:
        await migrate(store)
    except ApplianceError:
        await store.close()
        raise
    return store


async def _open(url: str, data_dir: Path) -> Store:
    if not url:
        return await open_sqlite(data_dir / FILE_NAME, refuse_newer)
    if url.startswith(("mongodb://", "mongodb+srv://")):
        # Most nodes run on the file and need not spend the memory of the driver.
        from .mongo.store import open_mongo  # noqa: PLC0415

        return await open_mongo(url, refuse_newer)
    raise InvalidSettings(
        f'The database URL begins with "{url.split("://", maxsplit=1)[0]}"; '
        "use mongodb://… or mongodb+srv://…, or leave it empty for the SQLite file in the data directory."
    )
