"""Tables and indexes, made to match the schema each time the file is opened."""

import json
import sqlite3
from collections.abc import Iterable

from appliance.store.documents import declared_values, decode
from appliance.store.feed import Feed
from appliance.store.schema import COLLECTIONS, VERSION, Collection

_TYPES = {"text": "TEXT", "int": "INTEGER", "bool": "INTEGER"}


def stored_version(connection: sqlite3.Connection) -> int | None:
    """The schema version of the file, or None if it is new."""
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'ods_meta'").fetchone()
    if found is None:
        return None
    row = connection.execute("SELECT value FROM ods_meta WHERE key = 'version'").fetchone()
    return int(row[0]) if row else None


def missing_table(connection: sqlite3.Connection, version: int | None) -> str:
    """The name of a table that a file of this version must have and has not, or "".

    A name that was damaged would else become a new, empty table beside it.
    """
    present = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if version is None:  # new: there is nothing yet, or else what says the version was lost
        return "" if not present & COLLECTIONS.keys() else "ods_meta"
    wanted = ["ods_sequences", *(COLLECTIONS if version >= VERSION else ())]
    return next((name for name in wanted if name not in present), "")


def ensure(connection: sqlite3.Connection) -> None:
    """Bring the file into the shape that the schema asks for; inside a transaction.

    New fields of old documents get their columns filled. Columns that are no longer declared stay, unused.
    """
    new = stored_version(connection) is None
    connection.execute("CREATE TABLE IF NOT EXISTS ods_meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS ods_sequences (collection TEXT PRIMARY KEY, last INTEGER NOT NULL)"
    )
    for collection in COLLECTIONS.values():
        _ensure_table(connection, collection)
        _ensure_indexes(connection, collection)
        if collection.sequence:
            connection.execute(
                "INSERT OR IGNORE INTO ods_sequences "  # noqa: S608
                f'SELECT ?, ifnull(max("{collection.sequence}"), 0) FROM "{collection.name}"',
                (collection.name,),
            )
    if new:
        connection.execute("INSERT INTO ods_meta VALUES ('version', ?)", (str(VERSION),))
        write_feed(connection, Feed())


def read_feed(connection: sqlite3.Connection) -> Feed:
    """The change feed's id and its earlier ids."""
    found = dict(connection.execute("SELECT key, value FROM ods_meta WHERE key IN ('feed', 'feeds')"))
    return Feed(id=found["feed"], earlier=json.loads(found.get("feeds", "{}")))


def write_feed(connection: sqlite3.Connection, feed: Feed) -> None:
    """Keep the change feed's id and its earlier ids; inside a transaction."""
    connection.executemany(
        "INSERT OR REPLACE INTO ods_meta VALUES (?, ?)",
        [("feed", feed.id), ("feeds", json.dumps(dict(feed.earlier)))],
    )


def _ensure_table(connection: sqlite3.Connection, collection: Collection) -> None:
    columns = {row[1] for row in connection.execute(f'PRAGMA table_info("{collection.name}")')}
    if not columns:
        fields = "".join(f', "{name}" {_TYPES[kind]}' for name, kind in collection.fields.items())
        connection.execute(
            f'CREATE TABLE "{collection.name}" '
            f"(_id TEXT PRIMARY KEY NOT NULL, _rev INTEGER NOT NULL{fields}, _body BLOB NOT NULL)"
        )
        return
    missing = [name for name in collection.fields if name not in columns]
    for name in missing:
        connection.execute(
            f'ALTER TABLE "{collection.name}" ADD COLUMN "{name}" {_TYPES[collection.fields[name]]}'
        )
    if missing:
        _fill(connection, collection, missing)


def _fill(connection: sqlite3.Connection, collection: Collection, missing: list[str]) -> None:
    names = list(collection.fields)
    assignments = ", ".join(f'"{name}" = ?' for name in missing)
    ids = [row[0] for row in connection.execute(f'SELECT _id FROM "{collection.name}"')]  # noqa: S608
    for id_ in ids:
        row = connection.execute(
            f'SELECT _body FROM "{collection.name}" WHERE _id = ?',  # noqa: S608
            (id_,),
        ).fetchone()
        values = dict(zip(names, declared_values(collection, decode(row[0])), strict=True))
        connection.execute(
            f'UPDATE "{collection.name}" SET {assignments} WHERE _id = ?',  # noqa: S608
            [*(values[name] for name in missing), id_],
        )


def _ensure_indexes(connection: sqlite3.Connection, collection: Collection) -> None:
    name = collection.name
    wanted: dict[str, str] = {}
    for field in collection.fields:
        if field in collection.unique:
            # Not a partial index: those serve a query only when it repeats their condition. NULLs never
            # collide.
            wanted[f"{name}__{field}__unique"] = f'UNIQUE INDEX "{{}}" ON "{name}" ("{field}")'
        else:
            wanted[f"{name}__{field}"] = f'INDEX "{{}}" ON "{name}" ("{field}", _id)'
    for fields in collection.indexes:
        parts = ", ".join(_index_part(field) for field in fields)
        wanted[f"{name}__{'_'.join(fields)}"] = f'INDEX "{{}}" ON "{name}" ({parts})'
    present = {
        row[0]
        for row in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL",
            (name,),
        )
    }
    for index in _in_order(present - wanted.keys()):
        connection.execute(f'DROP INDEX "{index}"')
    for index in _in_order(wanted.keys() - present):
        connection.execute("CREATE " + wanted[index].format(index))


def _index_part(field: str) -> str:
    return f'"{field[1:]}" DESC' if field.startswith("-") else f'"{field}"'


def _in_order(names: Iterable[str]) -> list[str]:
    return sorted(names)
