"""What a node answers while it starts: health, and downloads straight from the public directory.

The database may be away for hours and the disk full; Macs are served what lies in `public/Packages` meanwhile. The
links there name blobs, so that a download has the ETag that it always has; where links are copies it has none.
"""

import asyncio
import errno
import os
import re
from dataclasses import dataclass
from typing import Any

import tornado.web

from appliance.domain.errors import InvalidName, PackageUnknown, StoreUnavailable
from appliance.domain.names import check_filename
from appliance.log import AccessLog
from appliance.store.filesystem import open_regular
from appliance.store.layout import Layout
from config.settings import Settings

from .base import BaseHandler, int_or_0
from .content import DownloadHandler
from .health import LiveHandler
from .sendfile import FileFailed

BEGINNING = "The node is starting."
#: of opening a name under which there is nothing, or what is no file: the start mends that
_NO_FILE = {errno.ENOENT, errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.ENXIO}


@dataclass(kw_only=True)
class Starting:
    """What is known of a node before its parts are there; in place of `App` for the handlers here."""

    settings: Settings
    layout: Layout
    waiting_for: str = ""  #: "store" or "disk"; "" if the start just takes its time
    reason: str = ""  #: a sentence, if something is waited for
    draining: bool = False
    blobs: dict[tuple[int, int], str] | None = None  #: SHA-256 by device and inode, once somebody downloads

    def waits(self, part: str, reason: str) -> None:
        """Note what the start waits for."""
        self.waiting_for, self.reason = part, reason

    def drain(self) -> None:
        """Note that the node stops."""
        self.draining = True

    def checks(self) -> dict[str, dict[str, object]]:
        """As `Readiness.checks`."""
        found: dict[str, dict[str, object]] = {}
        if self.waiting_for:
            found[self.waiting_for] = {"ok": False, "reason": self.reason}
        found["starting"] = {"ok": False, "reason": BEGINNING}
        found["serving"] = {
            "ok": not self.draining,
            "reason": "The node is stopping." if self.draining else "",
        }
        return found


class StartingReadyHandler(BaseHandler):
    """`GET /health/ready`: 503 and what is waited for."""

    open = True

    async def get(self) -> None:
        """Answer."""
        self.set_header("Cache-Control", "no-store")
        self.set_header("Retry-After", "5")
        self.set_status(503)
        self.write({"status": "not ready", "checks": starting_of(self).checks(), "warnings": []})


class StartingDownloadHandler(DownloadHandler):
    """A file of the public directory."""

    async def _answer(self, filename: str, *, body: bool) -> None:
        starting = starting_of(self)
        try:
            path = starting.layout.packages / check_filename(filename)
            descriptor = open_regular(path)
        except (OSError, InvalidName) as exc:
            if isinstance(exc, InvalidName) or exc.errno in _NO_FILE:
                raise PackageUnknown(
                    f'"{filename}" is not here, or not known before the start is done.'
                ) from exc
            raise
        try:
            info = os.fstat(descriptor)
            if starting.blobs is None:
                starting.blobs = await asyncio.to_thread(_blobs, starting.layout)
            await self._send(starting.blobs.get((info.st_dev, info.st_ino), ""), descriptor, body=body)
        except FileFailed:
            return  # the start looks at every file
        finally:
            os.close(descriptor)

    def count(self, sent: int) -> None:
        """There is nobody who counts yet."""


@tornado.web.stream_request_body
class StartingHandler(BaseHandler):
    """Everything else: 503. It streams, so that a large body gets an answer and not a cut."""

    open = True

    async def prepare(self) -> None:
        """Say what is waited for."""
        await super().prepare()
        connection: Any = self.request.connection
        connection.set_max_body_size(int_or_0(self.request.headers.get("Content-Length")))
        raise StoreUnavailable(f"The node is starting, try again. {starting_of(self).reason}".strip())

    def data_received(self, chunk: bytes) -> None:
        """Drop it."""


def starting_of(handler: BaseHandler) -> Starting:
    """What is known while the node starts."""
    found: Any = handler.app
    assert isinstance(found, Starting)
    return found


def make_starting_application(starting: Starting) -> tornado.web.Application:
    """The application that answers until the node's own one is made."""
    context = re.escape(starting.settings.http.context)
    downloads = [
        (prefix + r"/[Pp]ackages/([^/]+)", StartingDownloadHandler) for prefix in dict.fromkeys(("", context))
    ]
    return tornado.web.Application(
        [(r"/health/live", LiveHandler), (r"/health/ready", StartingReadyHandler), *downloads],
        app=starting,
        default_handler_class=StartingHandler,
        log_function=_log,
        compress_response=False,
    )


def _log(handler: Any) -> None:
    """Log a request; that the node is not ready while it starts is no news to whoever asks again and again."""
    if not isinstance(handler, StartingReadyHandler):
        _ACCESS_LOG(handler)


_ACCESS_LOG = AccessLog()


def _blobs(layout: Layout) -> dict[tuple[int, int], str]:
    found: dict[tuple[int, int], str] = {}
    for path in layout.blobs.glob("??/" + "?" * 64):
        try:
            info = path.stat()
        except OSError:
            continue
        found[(info.st_dev, info.st_ino)] = path.name
    return found
