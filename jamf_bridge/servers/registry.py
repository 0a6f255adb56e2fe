"""Which kinds of MDM server there are: the drivers that are installed, by the entry point group `ods.mdm_drivers`.

A plug-in that cannot be loaded is logged and left out: it must not take the others, or the node, with it.
"""

import logging
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

from pydantic import BaseModel

from ..driver import DriverFactory

log = logging.getLogger(__name__)

GROUP = "ods.mdm_drivers"


class Registry:
    """The drivers by kind."""

    def __init__(self, factories: Mapping[str, DriverFactory] | None = None) -> None:
        """Make it, of these drivers or of those that are installed."""
        self._factories = dict(installed() if factories is None else factories)

    def kinds(self) -> tuple[str, ...]:
        """Every kind that there is a driver for, sorted."""
        return tuple(sorted(self._factories))

    def factory(self, kind: str) -> DriverFactory | None:
        """What makes drivers of a kind, or None if no driver of it is installed."""
        return self._factories.get(kind)

    def describe(self) -> list[dict[str, Any]]:
        """For each kind "kind", "title" and "settings": the JSON schema of the driver's own settings."""
        return [
            {
                "kind": kind,
                "title": (type(self._factories[kind]).__doc__ or kind).strip().split("\n")[0],
                "settings": self._factories[kind].Settings.model_json_schema(),
            }
            for kind in self.kinds()
        ]


def installed(points: Iterable[EntryPoint] | None = None) -> dict[str, DriverFactory]:
    """The drivers of these entry points, or of those of this Python; one that cannot be loaded is left out."""
    loaded = {point.name: _load(point) for point in (entry_points(group=GROUP) if points is None else points)}
    return {kind: factory for kind, factory in loaded.items() if factory is not None}


def _load(point: EntryPoint) -> DriverFactory | None:
    """The factory of an entry point, or None after a line in the log."""
    try:
        loaded = point.load()
    except Exception as exc:  # foreign code: whatever it raises while it is imported is its own fault
        _skipped(point, f"{type(exc).__name__}: {exc}")
        return None
    settings = getattr(loaded, "Settings", None)
    if not callable(loaded) or not isinstance(settings, type) or not issubclass(settings, BaseModel):
        _skipped(point, "it is no DriverFactory: callable, with a pydantic model `Settings`")
        return None
    return cast(DriverFactory, loaded)


def _skipped(point: EntryPoint, reason: str) -> None:
    log.error(
        "an MDM driver cannot be loaded; its servers need attention",
        extra={
            "action": "mdm_driver_skipped",
            "kind": point.name,
            "entry_point": point.value,
            "reason": reason,
        },
    )
