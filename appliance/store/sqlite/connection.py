"""Opening the file, and what its errors mean."""

import errno
import logging
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bson.errors import BSONError

from appliance.domain.errors import InvalidSettings, StorageFull, StoreDamaged, StoreUnavailable
from appliance.store.filesystem import is_full

log = logging.getLogger(__name__)

BUSY_S = 10.0  #: how long to wait for another process
CHECK_S = 10.0  #: how long `check` reads; 10,000 packages take 0.2 s
#: what a file raises that is away or damaged: SQLite's errors, its messages of bytes that are no text, and documents
#: that are none
FAULTS = (sqlite3.Error, UnicodeDecodeError, BSONError)
_ROOM = 128 * 1024  #: bytes: SQLite cannot even begin with less free space
_DAMAGED = (
    "The database {path} is damaged ({why}). Stop the node, move the files {name}* out of the data directory, restore "
    "them from a backup or run `ods import` with the newest export, and start the node again. The files of packages "
    "are not touched."
)


def connect(path: Path) -> sqlite3.Connection:
    """Open the file; transactions are begun by hand.

    A missing one is not made: its disk may be unmounted, and what would be made in the place of it hides that.

    Raises:
        StoreUnavailable: It cannot be opened.
    """
    with translated(path):
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw", uri=True,
            timeout=BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=256,
        )  # fmt: skip
        try:
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA cache_size=-8000")
            connection.execute("PRAGMA journal_size_limit=67108864")
            if sys.platform == "darwin":
                # There, fsync alone leaves data in the drive's cache.
                connection.execute("PRAGMA fullfsync=1")
                connection.execute("PRAGMA checkpoint_fullfsync=1")
        except FAULTS:
            connection.close()
            raise
    return connection


def create(path: Path) -> None:
    """Make the file if it is missing, readable by its owner only, and put it into WAL mode.

    Raises:
        InvalidSettings: The file system cannot do WAL, or the file may not be written.
        StoreDamaged: It is no database.
        StorageFull: There is no room to make it.
        StoreUnavailable: It cannot be opened.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as exc:
        if is_full(exc):
            raise StorageFull(f"The disk is full; the database {path} cannot be made.") from exc
        if exc.errno in {errno.EACCES, errno.EPERM}:
            raise InvalidSettings(
                f"The database {path} cannot be opened: {exc.strerror}. Make it readable and writable for the account "
                "that runs the node."
            ) from exc
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
        except FAULTS as exc:
            raise translate(exc, path) from exc
        time.sleep(0.01)


def is_no_database(error: BaseException | None) -> bool:
    """Whether the file is something else, such as one that a setting names by mistake."""
    return isinstance(error, sqlite3.Error) and _code(error) == sqlite3.SQLITE_NOTADB


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection is in the way."""
    return _code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Look whether the file is a sound database: every page is read, for at most `CHECK_S` seconds.

    Raises:
        StoreDamaged: It is not.
    """
    deadline = time.monotonic() + CHECK_S
    connection.set_progress_handler(lambda: time.monotonic() > deadline, 100_000)
    try:
        [(found,)] = connection.execute("PRAGMA quick_check(1)").fetchall()
    except sqlite3.OperationalError as exc:
        if _code(exc) != sqlite3.SQLITE_INTERRUPT:
            raise translate(exc, path) from exc
        log.warning(
            "the database is large; its check was ended before its end",
            extra={"action": "store_check_ended", "seconds": CHECK_S},
        )
        return
    except FAULTS as exc:
        raise translate(exc, path) from exc
    finally:
        connection.set_progress_handler(None, 0)
    if found != "ok":
        raise damaged(path, str(found))


def damaged(path: Path, why: str) -> StoreDamaged:
    """The error for a file that is no sound database."""
    return StoreDamaged(_DAMAGED.format(path=path, name=path.name, why=" ".join(why.split())[:200]))


def translate(error: Exception, path: Path) -> StoreUnavailable | StorageFull:
    """Return our error for one of `FAULTS`."""
    if not isinstance(error, sqlite3.Error):
        return damaged(path, f"a document cannot be read: {error}")
    code = _code(error)
    if code == sqlite3.SQLITE_FULL or (code in _WITHOUT_ROOM and _no_room(path)):
        return StorageFull(
            "The disk is full; the database cannot write. Free space, and it goes on by itself."
        )
    if code == sqlite3.SQLITE_NOTADB:
        return damaged(path, "it is not a database")
    if code == sqlite3.SQLITE_CORRUPT or "decode to UTF-8" in str(
        error
    ):  # the module's own error, without a code
        return damaged(path, str(error))
    if code == sqlite3.SQLITE_READONLY:
        return StoreUnavailable(f"The database {path} is read-only here: {error}.")
    return StoreUnavailable(f"The database does not answer: {error}.")


_WITHOUT_ROOM = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}  #: what a full disk is called, too


def _no_room(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free < _ROOM
    except OSError:
        return False


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise our errors for `FAULTS`."""
    try:
        yield
    except FAULTS as exc:
        raise translate(exc, path) from exc


def _code(error: sqlite3.Error) -> int:
    # The low byte is the primary code. Errors of the module itself, such as a closed connection, have none.
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
