"""Bringing the documents of an older version up to date when a store is opened.

A new declared field or index needs a higher `schema.VERSION` but no migration: both stores add it by
themselves on opening. A migration is for documents whose content must change. It works through the port, must
not mind to run twice (the process may be killed in it, or two processes may start at once), and is recorded
after it ran.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from appliance.domain.errors import InvalidSettings
from appliance.domain.fingerprint import fingerprint

from .paging import pages
from .ports import Store
from .schema import VERSION

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One step to a higher schema version."""

    version: int  #: the version that documents have afterwards
    name: str
    run: Callable[[Store], Awaitable[object]]


UNFINISHED = -1  #: the schema version of a store while an archive is read into it


async def fill_fingerprints(store: Store) -> int:
    """Give a fingerprint to every record that has none; return to how many. Readers of the feed see no change."""
    filled = 0
    async for docs in pages(store, "records", {"fingerprint": None}):
        for doc in docs:
            record = doc.get("record")
            signature = record.get("signature", "") if isinstance(record, dict) else ""  # one may be broken
            doc["fingerprint"] = fingerprint(doc["_id"], str(signature))
        filled += await store.rewrite("records", docs)
    return filled


#: none is for a version above `schema.VERSION`
MIGRATIONS: tuple[Migration, ...] = (
    Migration(version=2, name="fingerprints of records", run=fill_fingerprints),
)


def refuse_newer(stored: int, known: int = VERSION) -> None:
    """Accept a database of this or an older version.

    Raises:
        InvalidSettings: A newer version of the program has written it.
    """
    if stored > known:
        raise InvalidSettings(
            f"The database has schema version {stored}; this program knows versions up to {known}. "
            "Start the newer version of the program that wrote it, or import an older export."
        )


async def migrate(store: Store, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Run the migrations that the store has not seen, in order, and record the version.

    Raises:
        InvalidSettings: The store has only a part of an archive.
    """
    stored = await store.schema_version()
    if stored == UNFINISHED:
        raise InvalidSettings(
            "An import into this database was cut off, and only a part of it is there. Delete the database (the files "
            "ods.sqlite3* of the data directory, or the database of database.url) and import again."
        )
    for migration in sorted(migrations, key=lambda each: each.version):
        if migration.version > stored:
            await migration.run(store)
            await store.set_schema_version(migration.version)
            log.info(
                "The database was migrated.",
                extra={"action": "store_migrated", "version": migration.version, "migration": migration.name},
            )
    if stored < VERSION:
        await store.set_schema_version(max([VERSION, *(each.version for each in migrations)]))
