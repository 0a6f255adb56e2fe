"""Uploads: the tus 1.0.0 protocol (https://tus.io/protocols/resumable-upload), and one plain PUT.

The caller is known and everything that can be refused is refused in `prepare`, before the body. An error while
bytes arrive is remembered and answered at the end of the body: Tornado cannot answer in between.
"""

import base64
import binascii
import contextlib
import hashlib
from collections.abc import Mapping
from email.utils import formatdate
from typing import Any, ClassVar
from urllib.parse import urlsplit

import tornado.ioloop
import tornado.web

from appliance.domain.errors import ApplianceError, InvalidInput, OffsetMismatch, TooLarge
from appliance.service.accounts import Role
from appliance.service.receiving import Receiver
from appliance.service.uploads import Outcome, Upload

from .base import BaseHandler, int_or_0
from .views import package_json, upload_json

TUS = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,expiration,checksum,termination,concatenation"
BODY_S = 48 * 3600.0  #: a body may take so long; a silent connection is ended by TCP
DRAIN_MAX = 4 * 1024 * 1024
MISMATCH = 460  #: tus: checksum mismatch
_PUT_FIELDS = {"stage", "tags", "notes", "replace", "sha1", "sha256"}


class BodyHandler(BaseHandler):
    """A handler whose body streams into an upload."""

    upload: Upload | None = None
    receiver: Receiver | None = None
    _stack: contextlib.AsyncExitStack | None = None
    _error: ApplianceError | None = None
    _checksum: Any = None

    async def prepare(self) -> None:
        """Find out who asks and open the upload.

        Who is refused in the middle of sending sees a broken connection instead of the answer, so a small body is
        taken and dropped first. A client with a large one should send `Expect: 100-continue`, as curl does.
        """
        try:
            await super().prepare()
            await self.open_body()
        except ApplianceError as exc:
            length = int_or_0(self.request.headers.get("Content-Length"))
            connection: Any = self.request.connection
            connection.set_max_body_size(max(length, DRAIN_MAX))
            if "Expect" in self.request.headers or not 0 < length <= DRAIN_MAX:
                raise
            self._error = exc

    async def open_body(self) -> None:
        """Check the request and call `begin`, if its body is to be taken."""

    def check(self) -> None:
        """Raise what was found wrong before or while the body came."""
        if self._error is not None:
            raise self._error

    async def begin(self, upload: Upload, offset: int) -> None:
        """Let the body continue an upload at `offset`; call it in `prepare`."""
        left = self.app.uploads.max_size if upload.size is None else upload.size - offset
        length = self.request.headers.get("Content-Length")
        if length is not None and int_or_0(length) > left:
            raise TooLarge(f"The body has {length} bytes, but the upload has room for {left}.")
        self._stack = contextlib.AsyncExitStack()
        self.receiver = await self._stack.enter_async_context(self.app.uploads.receiving(upload, offset))
        self.upload = upload
        self._limit = offset + left
        connection: Any = self.request.connection
        connection.set_max_body_size(left)
        connection.set_body_timeout(BODY_S)

    async def data_received(self, chunk: bytes) -> None:
        """Take a block of the body."""
        if self._error is not None or self.receiver is None:
            return
        try:
            if self.receiver.offset + len(chunk) > self._limit:
                raise TooLarge(f"The body is longer than the {self._limit} bytes that were promised.")
            await self.receiver.write(chunk)
            if self._checksum is not None:
                self._checksum.update(chunk)
        except ApplianceError as exc:
            self._error = exc
        else:
            self.app.metrics.uploaded(len(chunk))

    async def body_ended(self) -> Outcome | None:
        """The body is here: complete the upload if that was all of it.

        Raises:
            ApplianceError: What went wrong while it arrived.
        """
        if self.receiver is None:
            self.check()
        assert self.upload is not None
        assert self.receiver is not None
        assert self._stack is not None
        async with self._stack:
            self._stack = None
            self.check()
            await self.receiver.flush()
            if self.upload.size in {None, self.receiver.offset} and not self.upload.part:
                return await self.app.uploads.complete(self.upload, self.receiver)
            await self.app.uploads.rest(self.upload, self.receiver)
        return None

    def on_connection_close(self) -> None:
        """The connection broke: what arrived stays."""
        super().on_connection_close()
        self._let_go()

    def on_finish(self) -> None:
        """Whatever happened: let go of the upload."""
        self._let_go()

    def _let_go(self) -> None:
        if self._stack is not None:
            stack, self._stack = self._stack, None
            tornado.ioloop.IOLoop.current().add_callback(_close, stack)

    def show(self, outcome: Outcome) -> None:
        """Answer with the package."""
        self.set_header("Location", f"/api/v1/packages/{outcome.package.id}")
        self.write_json(package_json(outcome.package, self.app.download_url), 201 if outcome.created else 200)


async def _close(stack: contextlib.AsyncExitStack) -> None:
    with contextlib.suppress(ApplianceError):
        await stack.aclose()


@tornado.web.stream_request_body
class PackagePutHandler(BodyHandler):
    """`PUT /api/v1/packages/{filename}`: one request, for curl and AutoPkg."""

    async def open_body(self) -> None:
        """Check everything before the body."""
        if self.request.method != "PUT":
            return
        unknown = set(self.request.query_arguments) - _PUT_FIELDS
        if unknown:
            raise InvalidInput(
                f"There is no parameter {sorted(unknown)[0]}; known: {', '.join(sorted(_PUT_FIELDS))}."
            )
        length = self.request.headers.get("Content-Length")
        if length is None and not self.request.headers.get("Transfer-Encoding"):
            raise InvalidInput("A PUT has a body with Content-Length or chunked transfer encoding.")
        upload = await self.app.uploads.create(
            filename=self.path_args[0],
            size=int_or_0(length) if length is not None else None,
            stage=self.get_query_argument("stage", None),
            tags=split_tags(self.get_query_argument("tags", None)),
            notes=self.get_query_argument("notes", None),
            replace=flag(self.get_query_argument("replace", "false")),
            sha1=self.get_query_argument("sha1", ""),
            sha256=self.get_query_argument("sha256", "") or digest_header(self.request.headers),
            actor=self.actor,
        )
        await self.begin(upload, 0)

    async def put(self, _filename: str) -> None:
        """The body is complete."""
        outcome = await self.body_ended()
        assert outcome is not None
        self.show(outcome)


class TusHandler(BodyHandler):
    """What all tus answers share."""

    def set_default_headers(self) -> None:
        """The protocol's version, everywhere."""
        super().set_default_headers()
        self.set_header("Tus-Resumable", TUS)

    async def open_body(self) -> None:
        """Check the protocol's version."""
        if self.request.method in {"POST", "PATCH", "HEAD", "DELETE"} and (
            self.request.headers.get("Tus-Resumable") != TUS
        ):
            self.set_header("Tus-Version", TUS)
            raise tornado.web.HTTPError(412, f"Send the header Tus-Resumable: {TUS}.")

    def options(self, *_: str) -> None:
        """What this server can do."""
        self.set_header("Tus-Version", TUS)
        self.set_header("Tus-Extension", EXTENSIONS)
        self.set_header("Tus-Max-Size", str(self.app.uploads.max_size))
        self.set_header("Tus-Checksum-Algorithm", "sha1,sha256")
        self.set_status(204)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Errors about the offset carry the true one."""
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        if isinstance(error, OffsetMismatch):
            self.set_header("Upload-Offset", str(error.details["offset"]))
        super().write_error(status_code, **kwargs)

    def _expect_checksum(self) -> None:
        header = self.request.headers.get("Upload-Checksum")
        if header is None:
            return
        kind, _, value = header.partition(" ")
        if kind not in {"sha1", "sha256"}:
            raise InvalidInput("Upload-Checksum is sha1 or sha256, a space, and the digest in base64.")
        self._checksum = hashlib.new(kind, usedforsecurity=False)
        try:
            self._wanted = base64.b64decode(value, validate=True)
        except binascii.Error as exc:
            raise InvalidInput(
                "Upload-Checksum is sha1 or sha256, a space, and the digest in base64."
            ) from exc

    def _checksum_fails(self) -> bool:
        return self._checksum is not None and self._checksum.digest() != self._wanted

    def _answer(self, outcome: Outcome | None, status: int) -> None:
        assert self.upload is not None
        self.set_status(status)
        self.set_header("Upload-Expires", formatdate(self.upload.expires_at / 1000, usegmt=True))
        assert self.receiver is not None
        self.set_header("Upload-Offset", str(self.receiver.offset))
        if outcome is not None:
            self.set_header("ODS-Package", outcome.package.id)
        self.finish()


@tornado.web.stream_request_body
class UploadsHandler(TusHandler):
    """`/api/v1/uploads`: open an upload, list those that are not complete."""

    async def open_body(self) -> None:
        """Open the upload before the body, which may be its first bytes."""
        await super().open_body()
        if self.request.method != "POST":
            return
        concat = self.request.headers.get("Upload-Concat", "")
        if concat.startswith("final;"):
            return
        length = self.request.headers.get("Upload-Length", "")
        if not length.isascii() or not length.isdigit():
            raise InvalidInput("Upload-Length is the size of the file in bytes.")
        self._expect_checksum()
        upload = await self._create(int(length), part=concat == "partial")
        await self.begin(upload, 0)

    async def _create(self, size: int | None, *, part: bool = False) -> Upload:
        metadata = parse_metadata(self.request.headers.get("Upload-Metadata", ""))
        if not part and not metadata.get("filename"):
            raise InvalidInput(
                "Upload-Metadata carries the file's name: filename, a space, and the name in base64."
            )
        return await self.app.uploads.create(
            filename=metadata.get("filename", ""),
            size=size,
            stage=metadata.get("stage"),
            tags=split_tags(metadata.get("tags")),
            notes=metadata.get("notes"),
            replace=flag(metadata.get("replace", "false")),
            sha1=metadata.get("sha1", ""),
            sha256=metadata.get("sha256", ""),
            part=part,
            actor=self.actor,
        )

    async def post(self) -> None:
        """The upload is open, and what came with the request is in it."""
        concat = self.request.headers.get("Upload-Concat", "")
        if concat.startswith("final;"):
            await self._join(concat.removeprefix("final;").split())
            return
        self.check()
        assert self.upload is not None
        if self._checksum_fails():
            await self.app.uploads.terminate(self.upload.id)
            raise tornado.web.HTTPError(
                MISMATCH, "The body does not have the checksum.", reason="Checksum Mismatch"
            )
        outcome = await self.body_ended()
        self.set_header("Location", f"{self.app.node_url}/api/v1/uploads/{self.upload.id}")
        self._answer(outcome, 201)

    async def _join(self, urls: list[str]) -> None:
        parts = [urlsplit(url).path.rsplit("/", 1)[-1] for url in urls]
        upload = await self._create(None)
        outcome = await self.app.uploads.concatenate(parts, upload)
        self.set_status(201)
        self.set_header("Location", f"{self.app.node_url}/api/v1/uploads/{upload.id}")
        self.set_header("ODS-Package", outcome.package.id)
        self.finish()

    async def get(self) -> None:
        """Uploads that are not complete."""
        uploads = await self.app.uploads.page(limit=500)
        self.write_json({"items": [upload_json(upload) for upload in uploads], "next": None})


@tornado.web.stream_request_body
class UploadHandler(TusHandler):
    """`/api/v1/uploads/{id}`: continue, look at, or end an upload."""

    roles: ClassVar[Mapping[str, Role]] = {"HEAD": Role.OPERATOR}

    async def open_body(self) -> None:
        """Find the place to continue before the body comes."""
        await super().open_body()
        if self.request.method != "PATCH":
            return
        if self.request.headers.get("Content-Type") != "application/offset+octet-stream":
            raise tornado.web.HTTPError(
                415, "The Content-Type of a PATCH is application/offset+octet-stream."
            )
        offset = self.request.headers.get("Upload-Offset", "")
        if not offset.isascii() or not offset.isdigit():
            raise InvalidInput("Upload-Offset is the number of the first byte of the body.")
        self._expect_checksum()
        upload = await self.app.uploads.get(self.path_args[0])
        await self.begin(upload, int(offset))

    async def patch(self, _id: str) -> None:
        """The body is in the upload."""
        self.check()
        if self._checksum_fails():
            assert self.upload is not None
            await self._take_back()
            raise tornado.web.HTTPError(
                MISMATCH, "The body does not have the checksum.", reason="Checksum Mismatch"
            )
        outcome = await self.body_ended()
        self._answer(outcome, 204)

    async def _take_back(self) -> None:
        """Forget the body of this request."""
        assert self.receiver is not None
        await self.receiver.rewind(int_or_0(self.request.headers.get("Upload-Offset")))

    async def head(self, id: str) -> None:
        """How much is here."""
        upload = await self.app.uploads.get(id)
        self.set_header("Upload-Offset", str(upload.offset))
        if upload.size is not None:
            self.set_header("Upload-Length", str(upload.size))
        if upload.part:
            self.set_header("Upload-Concat", "partial")
        self.set_header("Upload-Expires", formatdate(upload.expires_at / 1000, usegmt=True))
        self.set_header("Cache-Control", "no-store")
        self.finish()

    async def get(self, id: str) -> None:
        """How much is here, in JSON."""
        self.write_json(upload_json(await self.app.uploads.get(id)))

    async def delete(self, id: str) -> None:
        """End the upload and delete what arrived."""
        await self.app.uploads.get(id)
        await self.app.uploads.terminate(id)
        self.set_status(204)
        self.finish()


def split_tags(text: str | None) -> list[str] | None:
    """Tags from a comma-separated list, None if there is no list."""
    if text is None:
        return None
    return [tag.strip() for tag in text.split(",") if tag.strip()]


def flag(text: str) -> bool:
    """A yes or no.

    Raises:
        InvalidInput: It is neither.
    """
    if text.lower() in {"true", "1", "yes", ""}:
        return True
    if text.lower() in {"false", "0", "no"}:
        return False
    raise InvalidInput(f'"{text}" is neither true nor false.')


def digest_header(headers: Mapping[str, str]) -> str:
    """The hex SHA-256 of Repr-Digest or Content-Digest (RFC 9530), or ""."""
    for name in ("Repr-Digest", "Content-Digest"):
        for member in headers.get(name, "").split(","):
            kind, _, value = member.strip().partition("=")
            if kind == "sha-256":
                try:
                    return base64.b64decode(value.strip(":"), validate=True).hex()
                except binascii.Error as exc:
                    raise InvalidInput(f"{name} is not valid.") from exc
    return ""


def parse_metadata(header: str) -> dict[str, str]:
    """Upload-Metadata: keys and base64 values.

    Raises:
        InvalidInput: It is not written so.
    """
    found: dict[str, str] = {}
    for pair in header.split(","):
        key, _, value = pair.strip().partition(" ")
        if not key:
            continue
        try:
            found[key] = base64.b64decode(value, validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError) as exc:
            raise InvalidInput(f'The value of "{key}" in Upload-Metadata is not base64 of UTF-8.') from exc
    return found
