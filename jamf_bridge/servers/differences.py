"""What a change of a server's configuration changed, for the audit log; secrets masked."""

from collections.abc import Iterable, Mapping
from typing import Any

from .secret_fields import MASK, Place, masked
from .server import Server


def differences(old: Server, new: Server, places: Iterable[Place]) -> dict[str, dict[str, Any]]:
    """Fields that differ, by their dotted names, as "before" and "after"."""
    places = tuple(places)
    kept, set_now = old.config.model_dump(mode="json"), new.config.model_dump(mode="json")
    were, are = _flat(kept), _flat(set_now)
    before, after = _flat(masked(kept, places)), _flat(masked(set_now, places))
    names = [name for name in {**were, **are} if were.get(name) != are.get(name)]
    found = {
        "before": {name: before.get(name) for name in names},
        "after": {
            name: after.get(name) if after.get(name) != before.get(name) else "another secret"
            for name in names
        },
    }
    if old.hook_secret != new.hook_secret:
        found["before"]["hook_secret"], found["after"]["hook_secret"] = MASK, "another secret"
    return found if found["after"] else {}


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for section, value in config.items():
        if isinstance(value, Mapping):
            found |= {f"{section}.{name}": inner for name, inner in value.items()}
        else:
            found[section] = value
    return found
