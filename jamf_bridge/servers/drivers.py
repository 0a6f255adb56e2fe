"""The drivers in use: one for each server and each version of its settings."""

import asyncio
import hashlib
import json
import logging
from dataclasses import dataclass

from appliance.domain.errors import ApplianceError
from appliance.domain.mdm_errors import MdmNeedsAttention

from ..driver import Driver
from .configuring import driver_settings
from .registry import Registry
from .server import Server

log = logging.getLogger(__name__)

CLOSE_S = 20.0  #: for a driver to sign out


@dataclass(frozen=True, slots=True)
class _Held:
    stamp: str
    driver: Driver


class DriverCache:
    """Makes drivers, keeps them, and closes those whose settings were changed."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._held: dict[str, _Held] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def of(self, server: Server) -> Driver:
        """The driver of a server; it is not connected by this.

        Raises:
            MdmNeedsAttention: There is no driver of its kind, or it does not take the settings.
        """
        stamp = _stamp(server)
        held = self._held.get(server.id)
        if held is not None and held.stamp == stamp:
            return held.driver
        self.drop(server.id)
        driver = self.make(server)
        self._held[server.id] = _Held(stamp, driver)
        return driver

    def make(self, server: Server) -> Driver:
        """A driver that the caller closes.

        Raises:
            MdmNeedsAttention: As for `of`.
        """
        factory = self._registry.factory(server.config.kind)
        if factory is None:
            raise MdmNeedsAttention(
                f'There is no driver for "{server.config.kind}" on this node: install its plug-in again and restart.'
            )
        try:
            return factory(driver_settings(factory, server.config))
        except MdmNeedsAttention:
            raise
        except (ApplianceError, OSError, ValueError) as exc:  # such as a CA file that is not there
            raise MdmNeedsAttention(f"The settings of {server.config.name} cannot be used: {exc}") from exc

    def retire(self, server: Server) -> None:
        """Let go of a server's driver if it was made of other settings than those it has now."""
        held = self._held.get(server.id)
        if held is not None and held.stamp != _stamp(server):
            self.drop(server.id)

    def drop(self, server_id: str) -> None:
        """Let go of a server's driver, if there is one; it is closed beside everything else."""
        held = self._held.pop(server_id, None)
        if held is not None:
            task = asyncio.create_task(self._close(server_id, held.driver))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close all."""
        for server_id in list(self._held):
            self.drop(server_id)
        await asyncio.gather(*self._closing)

    @staticmethod
    async def _close(server_id: str, driver: Driver) -> None:
        try:
            async with asyncio.timeout(CLOSE_S):
                await driver.close()
        except (ApplianceError, OSError, TimeoutError) as exc:
            log.warning(
                "an MDM driver did not close well",
                extra={"action": "mdm_driver_close_failed", "mdm": server_id, "reason": str(exc)},
            )


def _stamp(server: Server) -> str:
    """Changes when what the driver was made of does; a digest, so that no secret is kept a second time."""
    made_of = json.dumps([server.config.kind, server.config.settings], sort_keys=True, default=str)
    return hashlib.sha256(made_of.encode()).hexdigest()
