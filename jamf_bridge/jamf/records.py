"""Collections and their records, in the style of python-jamf: plural class, singular record, explicit save."""

import copy
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from .errors import JamfNotFound
from .paths import get_path, set_path
from .session import Session

R = TypeVar("R", bound="Record")


class Record:
    """One record. `data` is what was read; changes to it are sent by `save`, and only what changed.

    Attributes:
        id: Jamf Pro's id, as text.
        data: The fields as Jamf Pro calls them.
    """

    name_field: ClassVar[str] = "name"

    def __init__(self, session: Session, id: str, data: dict[str, Any]) -> None:
        self._session = session
        self.id = str(id)
        self.data = data
        self._read = copy.deepcopy(data)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r}, {self.name!r})"

    @property
    def name(self) -> str:
        """Its name; names need not be unique."""
        return str(self.data.get(self.name_field) or "")

    def get_path(self, path: str) -> Any:
        """The value at a path such as `a/b/[id==3]/c`."""
        return get_path(self.data, path)

    def set_path(self, path: str, value: Any) -> None:
        """Set a value here; `save` sends it."""
        set_path(self.data, path, value)

    def changed(self) -> dict[str, Any]:
        """The fields that were changed here since they were read."""
        return {name: value for name, value in self.data.items() if self._read.get(name, _NONE) != value}

    def _take(self, data: dict[str, Any]) -> None:
        self.data = data
        self._read = copy.deepcopy(data)

    async def refresh(self) -> None:
        """Read it again; changes that were not saved are lost."""
        self._take(await self._get())

    async def save(self) -> None:
        """Send what was changed here, and nothing else."""
        changes = self.changed()
        if changes:
            await self._save(changes)

    async def delete(self) -> None:
        """Delete it in Jamf Pro, now."""
        raise NotImplementedError

    async def _get(self) -> dict[str, Any]:
        raise NotImplementedError

    async def _save(self, changes: Mapping[str, Any]) -> None:
        raise NotImplementedError


_NONE = object()


class Collection(Generic[R]):
    """All records of a kind. Nothing is read before it is asked for, and nothing is kept."""

    record: type[R]

    def __init__(self, session: Session) -> None:
        self._session = session

    def __aiter__(self) -> AsyncIterator[R]:
        return self._all()

    def _all(self) -> AsyncIterator[R]:
        raise NotImplementedError

    async def recordWithId(self, id: str | int) -> R:  # noqa: N802 - python-jamf's name
        """One record.

        Raises:
            JamfNotFound: There is none of this id.
        """
        raise NotImplementedError

    async def recordsWithName(self, name: str) -> list[R]:  # noqa: N802 - python-jamf's name
        """All records of this name, in any number."""
        return [record async for record in self if record.name == name]

    async def recordWithName(self, name: str) -> R:  # noqa: N802 - python-jamf's name
        """The record of this name; the first of several.

        Raises:
            JamfNotFound: There is none.
        """
        found = await self.recordsWithName(name)
        if not found:
            raise JamfNotFound(f'There is no {self.record.__name__} "{name}".')
        return found[0]

    async def recordsWithRegex(self, pattern: str) -> list[R]:  # noqa: N802 - python-jamf's name
        """All records whose name contains a match."""
        compiled = re.compile(pattern)
        return [record async for record in self if compiled.search(record.name)]

    async def ids(self) -> list[str]:
        """The id of every record."""
        return [record.id async for record in self]

    async def names(self) -> list[str]:
        """The name of every record."""
        return [record.name async for record in self]

    async def count(self) -> int:
        """How many there are."""
        return len(await self.ids())

    async def create(self, data: Mapping[str, Any]) -> R:
        """Create a record, now, and return it as Jamf Pro keeps it."""
        raise NotImplementedError
