"""Whether the files of the database are still where they were opened."""

import os
from pathlib import Path

from appliance.domain.errors import StoreMoved

_BESIDE = ("", "-wal", "-shm")  #: what SQLite keeps beside the file is as much of the database
_MOVED = (
    "The database {path} was deleted, moved or replaced while the node runs ({name}). Nothing is written. If it was "
    "moved, put the same files back, and the node goes on. Otherwise stop the node, restore {base}* from a backup or "
    "run `ods import` with the newest export, and start the node again."
)


class FilePlace:
    """Knows the files that a connection has open by device and inode.

    The system lets a process write to a file that nobody finds any more, and others make a second one in its place.
    """

    def __init__(self, path: Path) -> None:
        """Note the files as they are; a connection must have them open."""
        self._path = path
        beside = [f"{path}{end}" for end in _BESIDE]
        self._files = {name: found for name in beside if (found := _identity(name)) is not None}

    def check(self) -> None:
        """Return if they are the same; that takes microseconds.

        Raises:
            StoreMoved: One is gone, or another one.
        """
        for name, seen in self._files.items():
            if _identity(name) != seen:
                path = self._path
                raise StoreMoved(_MOVED.format(path=path, name=os.path.basename(name), base=path.name))


def _identity(name: str) -> tuple[int, int] | None:
    try:
        info = os.stat(name)
    except OSError:
        return None
    return info.st_dev, info.st_ino
