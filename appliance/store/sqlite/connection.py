"""Opening the file, and what its errors mean."""

import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from appliance.domain.errors import InvalidSettings, StorageError, StorageFull, StoreUnavailable

BUSY_S = 10.0  #: how long to wait for another process


def connect(path: Path) -> sqlite3.Connection:
    """Open the file; transactions are begun by hand.

    Raises:
        StoreUnavailable: It cannot be opened.
    """
    with translated(path):
        connection = sqlite3.connect(
            path, timeout=BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA cache_size=-8000")
        connection.execute("PRAGMA journal_size_limit=67108864")
        if sys.platform == "darwin":
            # There, fsync alone leaves data in the drive's cache.
            connection.execute("PRAGMA fullfsync=1")
            connection.execute("PRAGMA checkpoint_fullfsync=1")
    return connection


def create(path: Path) -> None:
    """Make the file if it is missing, readable by its owner only, and put it into WAL mode.

    Raises:
        InvalidSettings: The file system cannot do WAL, or the file is no database.
        StoreUnavailable: It cannot be opened.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as exc:
        raise StoreUnavailable(f"The database {path} cannot be opened: {exc.strerror}.") from exc
    connection = connect(path)
    try:
        mode = _switch_to_wal(connection, path)
    finally:
        connection.close()
    if mode != "wal":
        raise InvalidSettings(f"The database {path} is not on a local disk; SQLite cannot work there safely.")


def _switch_to_wal(connection: sqlite3.Connection, path: Path) -> str:
    # The switch ignores the busy time-out: two processes that open a new file at once need this loop.
    deadline = time.monotonic() + BUSY_S
    while True:
        try:
            return str(connection.execute("PRAGMA journal_mode=WAL").fetchone()[0])
        except sqlite3.OperationalError as exc:
            if not is_busy(exc) or time.monotonic() > deadline:
                raise translate(exc, path) from exc
        except sqlite3.DatabaseError as exc:
            raise translate(exc, path) from exc
        time.sleep(0.01)


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection is in the way."""
    return _code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def translate(error: sqlite3.Error, path: Path) -> StorageError | InvalidSettings:
    """Return our error for one of SQLite's."""
    code = _code(error)
    if code == sqlite3.SQLITE_FULL:
        return StorageFull("The disk is full; the database cannot write.")
    if code == sqlite3.SQLITE_NOTADB:
        return InvalidSettings(f"{path} is not a database.")
    if code == sqlite3.SQLITE_CORRUPT:
        return StoreUnavailable(f"The database {path} is damaged; restore it from an export.")
    return StoreUnavailable(f"The database does not answer: {error}.")


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise our errors for SQLite's."""
    try:
        yield
    except sqlite3.Error as exc:
        raise translate(exc, path) from exc


def _code(error: sqlite3.Error) -> int:
    # The low byte is the primary code. Errors of the module itself, such as a closed connection, have none.
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
