"""Which fields of a server's configuration are secret, and how they are kept apart from the rest.

A secret is named by its place, such as `settings.client_secret`. In the store the configuration holds no secret at
all: they are beside it, encrypted. So they stay hidden even when the plug-in that marked them is gone.
"""

import copy
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel

from ..driver import DriverFactory
from .config import Points

MASK = "********"  #: stands for a secret that is set

Place = tuple[str, ...]
_UNSET: tuple[object, ...] = (None, "", {}, [])


def secret_places(factory: DriverFactory | None) -> tuple[Place, ...]:
    """Where secrets are in a configuration, for servers of a kind."""
    own = _marked(factory.Settings) if factory is not None else []
    return (*(("points", *place) for place in _marked(Points)), *(("settings", *place) for place in own))


def _marked(model: type[BaseModel]) -> list[Place]:
    found: list[Place] = []
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, Mapping) and extra.get("secret"):
            found.append((name,))
            continue
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found += [(name, *place) for place in _marked(kind)]
    return found


def take_out(config: Mapping[str, Any], places: Iterable[Place]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a configuration.

    Returns:
        A copy without its secrets, and the secrets that are set, by the dotted name of their place.
    """
    rest = copy.deepcopy(dict(config))
    found: dict[str, Any] = {}
    for place in places:
        parent = _parent(rest, place)
        if parent is not None and place[-1] in parent:
            value = parent.pop(place[-1])
            if value not in _UNSET:
                found[".".join(place)] = value
    return rest, found


def put_in(config: Mapping[str, Any], secrets: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a configuration with values at the dotted names of their places."""
    whole = copy.deepcopy(dict(config))
    for name, value in secrets.items():
        parent = whole
        *path, last = name.split(".")
        for part in path:
            parent = parent.setdefault(part, {})
        parent[last] = value
    return whole


def masked(config: Mapping[str, Any], places: Iterable[Place]) -> dict[str, Any]:
    """A copy of a configuration that may be shown: `MASK` for each secret that is set, "" for each that is not."""
    shown = copy.deepcopy(dict(config))
    for place in places:
        parent = _parent(shown, place)
        if parent is not None:
            parent[place[-1]] = MASK if parent.get(place[-1]) not in _UNSET else ""
    return shown


def _parent(config: dict[str, Any], place: Place) -> dict[str, Any] | None:
    parent: Any = config
    for part in place[:-1]:
        parent = parent.get(part) if isinstance(parent, dict) else None
    return parent if isinstance(parent, dict) else None
