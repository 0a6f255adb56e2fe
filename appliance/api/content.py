"""Downloads: `/Packages/{filename}`, as managed devices ask for them.

Everything that decides comes from the catalogue in memory, so downloads go on while the database is down. The file
is opened by its hash, never by its name: what is sent is what the ETag says, also in the middle of a replacement.
"""

import base64
import hmac
import os
import unicodedata
from email.utils import formatdate
from typing import Any

import tornado.iostream
import tornado.web

from appliance.domain.errors import (
    BlobMissing,
    NotAuthenticated,
    PackageArriving,
    PackageUnknown,
    PackageWithdrawn,
)
from appliance.domain.package import WANTED, Package, Presence
from appliance.service.held_file import open_held

from .base import BaseHandler
from .ranges import Span, Unsatisfiable, not_modified, parse_range, range_applies, still_matches
from .sendfile import FileFailed, send_file


class DownloadHandler(BaseHandler):
    """GET and HEAD of a package's bytes."""

    open = True
    _size = 0

    async def head(self, filename: str) -> None:
        """The headers of a download."""
        await self._answer(filename, body=False)

    async def get(self, filename: str) -> None:
        """The bytes, or the stretch of them that Range asks for."""
        await self._answer(filename, body=True)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer an error; one about a range says how long the file is."""
        if status_code == 416:
            self.set_header("Content-Range", f"bytes */{self._size}")
        super().write_error(status_code, **kwargs)

    def compute_etag(self) -> str | None:
        """The ETag is set by hand; Tornado must not hash bodies."""
        return None

    async def prepare(self) -> None:
        """Ask for the downloads' account, if there is one."""
        await super().prepare()
        http = self.app.settings.http
        if http.download_username and not self._signed_in(
            f"{http.download_username}:{http.download_password}"
        ):
            raise NotAuthenticated("Downloads from this node need the account of its distribution point.")

    def _signed_in(self, expected: str) -> bool:
        scheme, _, value = self.request.headers.get("Authorization", "").partition(" ")
        try:
            given = base64.b64decode(value.strip(), validate=True)
        except ValueError:
            return False
        return scheme.lower() == "basic" and hmac.compare_digest(given, expected.encode())

    async def _answer(self, filename: str, *, body: bool) -> None:
        package = self._served(unicodedata.normalize("NFC", filename))
        descriptor = await open_held(self.app.blobs, self.app.verifying, package)
        try:
            await self._send(package.held_sha256, descriptor, body=body)
        except FileFailed:
            self.app.verifying.suspect(package)
        finally:
            os.close(descriptor)

    def count(self, sent: int) -> None:
        """Count bytes that were sent."""
        self.app.metrics.downloaded(sent)

    def _served(self, filename: str) -> Package:
        package = self.app.catalogue.named(filename)
        if package is None:
            raise PackageUnknown(f'There is no package "{filename}" here.')
        if package.withdrawn:
            raise PackageWithdrawn(f'"{filename}" was withdrawn.')
        if package.held_sha256 and (package.held_filename == filename or filename != package.body.filename):
            return package  # names that differ in case only are one
        if package.presence is Presence.DAMAGED:
            raise BlobMissing(f'The file of "{filename}" is damaged here: {package.reason}.')
        if package.presence in WANTED:
            raise PackageArriving(f'"{filename}" is not here yet: {package.reason}.')
        raise PackageUnknown(f'"{filename}" is not served by this node: {package.reason}.')

    async def _send(self, sha256: str, descriptor: int, *, body: bool) -> None:
        """Answer with an open file; `sha256` is "" if nobody knows it.

        Raises:
            FileFailed: It is not what its headers said.
        """
        info = os.fstat(descriptor)
        size, modified = info.st_size, int(info.st_mtime)
        etag = f'"{sha256}"' if sha256 else ""
        digest = base64.b64encode(bytes.fromhex(sha256)).decode("ascii")
        if etag:
            self.set_header("ETag", etag)
        self.set_header("Last-Modified", formatdate(modified, usegmt=True))
        self.set_header("Accept-Ranges", "bytes")
        self.set_header("Cache-Control", "no-cache")
        request = self.request.headers
        if not still_matches(request.get("If-Match"), request.get("If-Unmodified-Since"), etag, modified):
            raise tornado.web.HTTPError(412, "These are other bytes than those that were asked for.")
        if not_modified(request.get("If-None-Match"), request.get("If-Modified-Since"), etag, modified):
            self.set_status(304)
            return
        if digest:
            self.set_header("Repr-Digest", f"sha-256=:{digest}:")
        self.set_header("Content-Type", "application/octet-stream")
        span = None
        if range_applies(request.get("If-Range"), etag, modified):
            try:
                span = parse_range(request.get("Range"), size)
            except Unsatisfiable:
                self._size = size
                raise tornado.web.HTTPError(416, f"The file has {size} bytes.") from None
        if span is None:
            span = Span(0, size)
        else:
            self.set_status(206)
            self.set_header("Content-Range", f"bytes {span.first}-{span.first + span.length - 1}/{size}")
        self.set_header("Content-Length", str(span.length))
        if not body:
            return
        try:
            await send_file(self, descriptor, span.first, span.length, self.count)
        except FileFailed:
            raise  # whoever opened the file has to look at it
        except tornado.iostream.StreamClosedError:
            return  # the reader went away
