"""Paths into a record's data, as in python-jamf: `a/b/[id==3]/c` and `a/[0]/b`."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

_CHOICE = re.compile(r"\[(\w+)==(.*)\]")
_INDEX = re.compile(r"\[(\d{1,6})\]")


class InvalidPath(KeyError):
    """The path leads nowhere."""

    def __str__(self) -> str:
        return f"there is no {self.args[0]!r} in the record"


def get_path(data: Any, path: str) -> Any:
    """The value at a path.

    Raises:
        InvalidPath: There is none.
    """
    found = data
    for step in path.split("/"):
        found = _step(found, step, path)
    return found


def set_path(data: Any, path: str, value: Any) -> None:
    """Set the value at a path; the last part may be a new name.

    Raises:
        InvalidPath: What comes before the last part is not there.
    """
    *way, last = path.split("/")
    found = data
    for step in way:
        found = _step(found, step, path)
    index = _INDEX.fullmatch(last)
    if isinstance(found, list) and index and int(index[1]) < len(found):
        found[int(index[1])] = value
    elif isinstance(found, dict):
        found[last] = value
    else:
        raise InvalidPath(path)


def _step(found: Any, step: str, path: str) -> Any:
    choice, index = _CHOICE.fullmatch(step), _INDEX.fullmatch(step)
    if choice and isinstance(found, Sequence):
        for item in found:
            if isinstance(item, Mapping) and str(item.get(choice[1])) == choice[2]:
                return item
    elif index and isinstance(found, Sequence) and int(index[1]) < len(found):
        return found[int(index[1])]
    elif isinstance(found, Mapping) and step in found:
        return found[step]
    raise InvalidPath(path)
