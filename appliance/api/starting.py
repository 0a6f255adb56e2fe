"""What a node answers while it starts: health, and downloads straight from the public directory.

The database may be away for hours and the disk full; Macs are served what lies in `public/Packages` meanwhile. Nobody
can say what should be there, so a file is read first, once while this process lives: it is served if its SHA-256 is the
name of a blob. What a hand put there and what rotted is not.
"""

import asyncio
import errno
import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tornado.web

from appliance.domain.errors import (
    InvalidName,
    PackageArriving,
    PackageUnknown,
    StorageError,
    StoreUnavailable,
)
from appliance.domain.manifest import CHUNK_SIZE
from appliance.domain.names import check_filename
from appliance.log import AccessLog
from appliance.store.filesystem import check_regular, open_regular, read_at
from appliance.store.layout import Layout
from config.settings import Settings

from .base import BaseHandler, int_or_0
from .content import DownloadHandler
from .health import LiveHandler
from .sendfile import FileFailed

BEGINNING = "The node is starting."
_AT_ONCE = 2  #: files that are read at the same time, in the memory of one block each
_WAIT_S = 2.0  #: a download waits for so long; most files are read by then
_READ = 10_000  #: files that are remembered
_Stamp = tuple[int, int, int, int, int]  #: device, inode, size, and when it was written and changed
#: of opening a name under which there is nothing, or what is no file: the start mends that
_NO_FILE = {errno.ENOENT, errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.ENXIO}


class _Reading:
    """The SHA-256 of files by what tells one from another."""

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None
        self._found: dict[_Stamp, asyncio.Future[str]] = {}
        self._ended = False

    async def sha256(self, path: Path, stamp: _Stamp) -> str:
        """The SHA-256 of a file, "" if it is another one by now, or the start is over.

        Raises:
            PackageArriving: It is still being read.
            StorageError: It cannot be read.
        """
        future = self._found.get(stamp)
        if future is None or (future.done() and (future.cancelled() or future.exception() is not None)):
            if self._threads is None:
                self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="starting")
            for old in [each for each, one in self._found.items() if one.done()][: len(self._found) - _READ]:
                del self._found[old]
            loop = asyncio.get_running_loop()
            future = self._found[stamp] = loop.run_in_executor(self._threads, self._read, path, stamp)
        done, _ = await asyncio.wait([future], timeout=_WAIT_S)
        if not done or future.cancelled():
            raise PackageArriving("The file is verified before it is served; try again.", retry_after=5)
        try:
            return future.result()
        except OSError as exc:
            raise StorageError(f"The file cannot be read: {exc.strerror or exc}.") from exc

    def _read(self, path: Path, stamp: _Stamp) -> str:
        descriptor = open_regular(path)
        try:
            digest, buffer, offset = hashlib.sha256(), memoryview(bytearray(CHUNK_SIZE)), 0
            while count := read_at(descriptor, buffer, offset):
                if self._ended:
                    return ""
                digest.update(buffer[:count])
                offset += count
            return digest.hexdigest() if _stamp(os.fstat(descriptor)) == stamp else ""
        finally:
            os.close(descriptor)

    def end(self) -> None:
        """Read no more."""
        self._ended = True
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None


@dataclass(kw_only=True)
class Starting:
    """What is known of a node before its parts are there; in place of `App` for the handlers here."""

    settings: Settings
    layout: Layout
    waiting_for: str = ""  #: "store" or "disk"; "" if the start just takes its time
    reason: str = ""  #: a sentence, if something is waited for
    draining: bool = False
    files: _Reading = field(default_factory=_Reading)

    def waits(self, part: str, reason: str) -> None:
        """Note what the start waits for."""
        self.waiting_for, self.reason = part, reason

    def drain(self) -> None:
        """Note that the node stops."""
        self.draining = True
        self.end()

    def end(self) -> None:
        """Read no more files: the node answers itself, or stops."""
        self.files.end()

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
            sha256 = await starting.files.sha256(path, _stamp(info))
            if not sha256 or not _is_blob(starting.layout, sha256):
                if not sha256 or info.st_nlink > 1:  # a link of a blob, whose bytes changed
                    raise StorageError(
                        f'The file of "{filename}" is damaged or was changed; the start mends that.'
                    )
                raise PackageUnknown(f'"{filename}" is not here, or not known before the start is done.')
            await self._send(sha256, descriptor, body=body)
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


def _stamp(info: os.stat_result) -> _Stamp:
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def _is_blob(layout: Layout, sha256: str) -> bool:
    try:
        check_regular(layout.blob(sha256).lstat())
    except OSError:
        return False
    return True
