"""Whether the process lives, whether it is ready, and what it counts: for load balancers and Prometheus."""

import asyncio
import contextlib
import ipaddress
from dataclasses import asdict

from tornado import httputil

from appliance.domain.errors import StoreUnavailable
from appliance.service.metrics import CONTENT_TYPE
from appliance.service.system import PING_TIMEOUT_S

from .base import BaseHandler

_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via")


class LiveHandler(BaseHandler):
    """`GET /health/live`: 200 while the event loop turns."""

    open = True

    async def get(self) -> None:
        """Answer."""
        self.set_header("Cache-Control", "no-store")
        self.write({"status": "live"})


class ReadyHandler(BaseHandler):
    """`GET /health/ready`: 200 when the store, the disk and the worker do their work, else 503 and why."""

    open = True

    async def get(self) -> None:
        """Answer."""
        readiness = await self.app.system.ready()
        self.set_header("Cache-Control", "no-store")
        self.set_status(200 if readiness.ready else 503)
        self.write(
            {
                "status": "ready" if readiness.ready else "not ready",
                "checks": {name: asdict(check) for name, check in readiness.checks.items()},
                "warnings": list(readiness.warnings),
            }
        )


class MetricsHandler(BaseHandler):
    """`GET /metrics`: without signing in from this machine, else with an account or a token."""

    async def prepare(self) -> None:
        """Let local readers in."""
        self.open = is_local(self.request)
        await super().prepare()

    async def get(self) -> None:
        """Answer in Prometheus' text format."""
        with contextlib.suppress(StoreUnavailable, TimeoutError):  # then the last figures stand
            await asyncio.wait_for(self._refresh(), PING_TIMEOUT_S)
        page = await asyncio.to_thread(self.app.metrics.render)
        self.set_header("Content-Type", CONTENT_TYPE)
        self.finish(page)

    async def _refresh(self) -> None:
        """Read the figures that the database has."""
        stuck = await self.app.watchdog.notice()
        self.app.metrics.packages_stuck.set(stuck["count"] if stuck is not None else 0)
        await self.app.trash.usage()
        await self.app.scrub.refresh()


def is_local(request: httputil.HTTPServerRequest) -> bool:
    """Whether a request was made on this machine itself, and not passed on by a proxy that runs here."""
    if any(name in request.headers for name in _FORWARDED):
        return False
    try:
        address = ipaddress.ip_address(request.remote_ip or "")
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


ROUTES = [
    (r"/health/live", LiveHandler),
    (r"/health/ready", ReadyHandler),
    (r"/metrics", MetricsHandler),
]
