"""Jamf's cloud: the deprecated JCDS calls, the cloud distribution point, and the store behind the signed URLs."""

import asyncio
import hashlib
import secrets
import time
from typing import Any, ClassVar
from urllib.parse import quote, unquote

import tornado.web
from tornado.iostream import StreamClosedError

from .base import ApiError, Handler, page_of
from .state import CloudFile, State

_BLOCK = 256 * 1024
_FILES = "Jamf Cloud Distribution Service Files"


class JcdsHandler(Handler):
    """Every answer says that the call will go away."""

    def set_default_headers(self) -> None:
        self.set_header("Deprecation", "Thu, 28 Aug 2025 00:00:00 GMT")
        self.set_header("Sunset", "Fri, 28 Aug 2027 00:00:00 GMT")

    async def prepare(self) -> None:
        await super().prepare()
        if not self._finished and (self.state.faults.jcds_gone or self.state.cdn != "JAMF_CLOUD"):
            self.answer({"httpStatus": 404, "errors": []}, 404)


class FilesHandler(JcdsHandler):
    """`GET /api/v1/jcds/files`: a bare array."""

    privileges: ClassVar[dict[str, str]] = {"GET": f"Read {_FILES}"}

    def get(self) -> None:
        now = time.monotonic()
        cloud = self.state.stale_cloud if self.state.faults.stale_lists > 0 else self.state.cloud
        self.answer([_listed(name, file) for name, file in cloud.items() if file.ready_at <= now])


def _listed(name: str, file: CloudFile) -> dict[str, Any]:
    digests = file.content.digests()
    length = file.stated_length if file.stated_length is not None else file.content.size
    return {
        "fileName": name,
        "length": length,
        "md5": digests["md5"],
        "region": "eu-central-1",
        "sha3": digests["sha3"],
    }


class FileHandler(JcdsHandler):
    """`GET /api/v1/jcds/files/{fileName}`: a signed URL."""

    privileges: ClassVar[dict[str, str]] = {"GET": f"Read {_FILES}"}

    def get(self, name: str) -> None:
        if name not in self.state.cloud:
            self.answer({"httpStatus": 404, "errors": []}, 404)
            return
        faults = self.state.faults
        until = time.time() + faults.url_life_s
        signature = secrets.token_urlsafe(16)
        left = faults.expire_after.pop(0) if faults.expire_after else -1
        self.state.signatures[signature] = (name, until, left)
        base = f"{self.request.protocol}://{self.request.host}"
        self.answer({"uri": f"{base}/cloudfront/{quote(name, safe='')}?Expires={int(until)}&Signature={signature}"
                            "&Key-Pair-Id=K2JCJMDEHXQW5F"})  # fmt: skip


class RefreshHandler(JcdsHandler):
    """`POST .../refresh-inventory`."""

    privileges: ClassVar[dict[str, str]] = {"POST": f"Read {_FILES}"}

    def post(self) -> None:
        _refresh(self)


class CloudRefreshHandler(Handler):
    """`POST /api/v1/cloud-distribution-point/refresh-inventory`."""

    privileges: ClassVar[dict[str, str]] = {"POST": "Read Cloud Distribution Point"}

    def post(self) -> None:
        _refresh(self)


def _refresh(handler: Handler) -> None:
    state, name = handler.state, handler.get_argument("file-name", "")
    now = time.monotonic()
    if not name:
        if now - state.refreshed_at < 15:
            raise ApiError(500, "SYSTEM_EXCEPTION")
        state.refreshed_at = now
    for id, record in state.packages.items():
        file = state.cloud.get(record["fileName"])
        if file is not None and name in {"", record["fileName"]} and file.ready_at <= now:
            state.settle_cloud(id, file)
    handler.set_status(204)


class CloudPointHandler(Handler):
    """`GET /api/v1/cloud-distribution-point`."""

    privileges: ClassVar[dict[str, str]] = {"GET": "Read Cloud Distribution Point"}

    def get(self) -> None:
        self.answer({"inventoryId": "1", "cdnType": self.state.cdn, "master": self.state.cdn != "NONE", "username": "",
                     "directory": "", "cdnUrl": "", "uploadUrl": "", "downloadUrl": "", "secondaryAuthRequired": False,
                     "requireSignedUrls": False, "hasConnectionSucceeded": True, "message": ""})  # fmt: skip


class CloudFilesHandler(Handler):
    """`GET /api/v1/cloud-distribution-point/files`."""

    privileges: ClassVar[dict[str, str]] = {"GET": "Read Cloud Distribution Point"}

    def get(self) -> None:
        items = []
        for id in list(self.state.packages):
            record = self.state.shown(id)
            if record["cloudTransferStatus"]:
                items.append(
                    {"id": str(id), "inventoryId": "1", "type": "PACKAGE", "fileName": record["fileName"],
                     "fileObjectId": str(id), "category": "", "status": record["cloudTransferStatus"]}
                )  # fmt: skip
        self.answer(page_of(self, items))


class StoreHandler(tornado.web.RequestHandler):
    """The store behind a signed URL: Range, ETag, expiry, and the faults of a long way."""

    @property
    def state(self) -> State:
        state: State = self.settings["state"]
        return state

    async def head(self, name: str) -> None:
        await self.get(name)

    async def get(self, name: str) -> None:
        name = unquote(name)
        signature = self.get_argument("Signature", "")
        known = self.state.signatures.get(signature)
        file = self.state.cloud.get(name)
        # A request with credentials of another system is refused, as the real store does.
        if (
            known is None
            or known[0] != name
            or known[1] < time.time()
            or known[2] == 0
            or file is None
            or ("Authorization" in self.request.headers)
        ):
            self.set_status(403)
            self.set_header("Content-Type", "text/xml")
            self.finish(
                "<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access denied</Message></Error>"
            )
            return
        etag = f'"{hashlib.md5(file.content.digests()["md5"].encode(), usedforsecurity=False).hexdigest()}"'
        size = file.content.size
        first, count = 0, size
        wanted = self.request.headers.get("Range", "")
        if wanted.startswith("bytes=") and self.request.headers.get("If-Range", etag) == etag:
            low, _, high = wanted.removeprefix("bytes=").partition("-")
            first = int(low)
            if first >= size:
                self.set_status(416)
                return
            count = (min(int(high), size - 1) if high else size - 1) - first + 1
            self.set_status(206)
            self.set_header("Content-Range", f"bytes {first}-{first + count - 1}/{size}")
        self.set_header("Accept-Ranges", "bytes")
        self.set_header("ETag", etag)
        self.set_header("Last-Modified", "Mon, 23 Nov 2026 10:00:00 GMT")
        self.set_header("Content-Type", "application/octet-stream")
        self.set_header("Content-Length", str(count))
        if self.request.method != "HEAD":
            await self._send(name, signature, file, first, count)

    async def _send(self, name: str, signature: str, file: CloudFile, first: int, count: int) -> None:
        faults = self.state.faults
        drop = faults.drop_after.pop(0) if faults.drop_after else -1
        done = 0
        while done < count:
            owner, until, left = self.state.signatures[signature]
            step = min(_BLOCK, count - done, *(limit for limit in (drop - done, left) if limit > 0))
            data = await asyncio.to_thread(file.content.read, first + done, step)
            if file.corrupt and first + done == 0:
                data = bytes([data[0] ^ 1]) + data[1:]
            self.write(data)
            try:
                await self.flush()
            except StreamClosedError:
                return
            done += step
            self.state.served[name] = self.state.served.get(name, 0) + step
            if left > 0:
                self.state.signatures[signature] = (owner, until, left - step)
            if faults.serve_rate:
                await asyncio.sleep(step / faults.serve_rate)
            if done < count and (drop == done or left == step):
                # A cut connection; an expired URL ends what runs on it as well.
                self.request.connection.stream.close()  # type: ignore[union-attr,attr-defined]
                return

    def compute_etag(self) -> str | None:
        return None


ROUTES = [
    (r"/api/v1/jcds/files", FilesHandler),
    (r"/api/v1/jcds/refresh-inventory", RefreshHandler),
    (r"/api/v1/jcds/files/([^/]+)", FileHandler),
    (r"/api/v1/cloud-distribution-point", CloudPointHandler),
    (r"/api/v1/cloud-distribution-point/files", CloudFilesHandler),
    (r"/api/v1/cloud-distribution-point/refresh-inventory", CloudRefreshHandler),
    (r"/cloudfront/([^/]+)", StoreHandler),
]
