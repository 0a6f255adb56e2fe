"""The package records of an MDM as they were just listed, by id and by file name."""

from collections.abc import Iterable

from ..driver import RemotePackage
from ..names import nfc


class Listing:
    """Finds the record of a file name. Names are compared exactly, in NFC; several records may have one name."""

    def __init__(self, packages: Iterable[RemotePackage]) -> None:
        self._by_name: dict[str, list[RemotePackage]] = {}
        self._ids: set[str] = set()
        for package in packages:
            self._by_name.setdefault(nfc(package.file_name), []).append(package)
            self._ids.add(package.id)

    def lacks(self, remote_id: str) -> bool:
        """Whether the record of an id that is known is not listed, under whatever file name."""
        return bool(remote_id) and remote_id not in self._ids

    def record(self, file_name: str, remote_id: str) -> RemotePackage | None:
        """The record of this name: that of this id, else the first; None if there is none.

        Args:
            file_name: In NFC.
            remote_id: The id that it had before, "" if it is not known.
        """
        same = self._by_name.get(file_name)
        if not same:
            return None
        return next((package for package in same if package.id == remote_id), same[0])
