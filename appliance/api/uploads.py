"""Uploads: the tus 1.0.0 protocol (https://tus.io/protocols/resumable-upload), and one plain PUT."""

import base64
from collections.abc import Mapping
from email.utils import formatdate
from typing import Any, ClassVar
from urllib.parse import urlsplit

import tornado.web

from appliance.domain.errors import ApplianceError, InvalidInput, OffsetMismatch
from appliance.domain.event import EventType
from appliance.peering.address import base_path
from appliance.service.accounts import Role
from appliance.service.uploads import Outcome, Upload

from .base import int_or_0
from .body import BodyHandler
from .views import package_json, upload_json

TUS = "1.0.0"
MAX_DIGITS = 18  #: of a size or offset
EXTENSIONS = "creation,creation-with-upload,expiration,checksum,termination,concatenation"
_PUT_FIELDS = {"stage", "tags", "notes", "replace", "sha1", "sha256"}


@tornado.web.stream_request_body
class PackagePutHandler(BodyHandler):
    """`PUT /api/v1/packages/{filename}`: one request, for curl and AutoPkg."""

    remember = False

    async def open_body(self) -> None:
        """Check everything before the body."""
        if self.request.method != "PUT":
            return
        unknown = set(self.request.query_arguments) - _PUT_FIELDS
        if unknown:
            raise InvalidInput(
                f"There is no parameter {sorted(unknown)[0]}; known: {', '.join(sorted(_PUT_FIELDS))}."
            )
        if "Content-Range" in self.request.headers:  # RFC 9110, 14.5: curl -C sends the end of a file only
            raise InvalidInput(
                "A PUT has the whole file; to go on with one that was cut off, use tus or ods."
            )
        stage = self.get_query_argument("stage", None)
        if stage == "":  # a script's empty variable must not mean every node
            raise InvalidInput("The stage is empty; leave it out for the node's default.")
        length = self.request.headers.get("Content-Length")
        if length is None and not self.request.headers.get("Transfer-Encoding"):
            raise InvalidInput("A PUT has a body with Content-Length or chunked transfer encoding.")
        upload = await self.app.uploads.create(
            filename=self.path_args[0],
            size=int_or_0(length) if length is not None else None,
            stage=stage,
            tags=split_tags(self.get_query_argument("tags", None)),
            notes=self.get_query_argument("notes", None),
            replace=flag(self.get_query_argument("replace", "false")),
            sha1=self.get_query_argument("sha1", ""),
            sha256=self.get_query_argument("sha256", "") or digest_header(self.request.headers),
            actor=self.actor,
            within=self.within,
        )
        await self.begin(upload, 0)

    async def put(self, _filename: str) -> None:
        """The body is complete."""
        outcome = await self.body_ended()
        assert outcome is not None
        self.set_header("Location", f"/api/v1/packages/{outcome.package.id}")
        self.write_json(package_json(outcome.package, self.app.download_url), 201 if outcome.created else 200)


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
            raise tornado.web.HTTPError(412, f"Send the header Tus-Resumable: {TUS}.")

    def options(self, *_: str) -> None:
        """What this server can do."""
        self.set_header("Tus-Version", TUS)
        self.set_header("Tus-Extension", EXTENSIONS)
        self.set_header("Tus-Max-Size", str(self.app.uploads.max_size))
        self.set_header("Tus-Checksum-Algorithm", "sha1,sha256")
        self.set_status(204)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Errors about offset or version carry the true one."""
        if status_code == 412:
            self.set_header("Tus-Version", TUS)
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        if isinstance(error, OffsetMismatch):
            self.set_header("Upload-Offset", str(error.details["offset"]))
        super().write_error(status_code, **kwargs)

    def _checksum(self) -> tuple[str, bytes]:
        header = self.request.headers.get("Upload-Checksum")
        if header is None:
            return "", b""
        kind, _, value = header.partition(" ")
        try:
            wanted = base64.b64decode(value, validate=True)
        except ValueError:
            wanted = b""
        if len(wanted) != {"sha1": 20, "sha256": 32}.get(kind, -1):
            raise InvalidInput("Upload-Checksum is sha1 or sha256, a space, and the digest in base64.")
        return kind, wanted

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
        if concat not in {"", "partial"}:
            raise InvalidInput("Upload-Concat is partial, or final; and the addresses of the parts.")
        length = self.request.headers.get("Upload-Length", "")
        if not length.isascii() or not length.isdigit() or len(length) > MAX_DIGITS:
            raise InvalidInput("Upload-Length is the size of the file in bytes.")
        self._checksum()
        part = concat == "partial"
        upload = await self.app.uploads.create(size=int(length), part=part, **self._fields(part=part))
        try:
            await self.begin(upload, 0)
        except ApplianceError:
            await self.app.uploads.terminate(upload.id)
            raise

    def _fields(self, *, part: bool = False) -> dict[str, Any]:
        """What Upload-Metadata says of the file."""
        header = self.request.headers.get("Upload-Metadata", "")
        metadata = parse_metadata(header)
        if not part and not metadata.get("filename"):
            raise InvalidInput(
                "Upload-Metadata carries the file's name: filename, a space, and the name in base64."
            )
        return {
            "filename": metadata.get("filename", ""),
            "stage": metadata.get("stage"),
            "tags": split_tags(metadata.get("tags")),
            "notes": metadata.get("notes"),
            "replace": flag(metadata.get("replace", "false")),
            "sha1": metadata.get("sha1", ""),
            "sha256": metadata.get("sha256", ""),
            "tus_metadata": header,
            "actor": self.actor,
            "within": self.within,
        }

    async def post(self) -> None:
        """The upload is open, and what came with the request is in it."""
        concat = self.request.headers.get("Upload-Concat", "")
        if concat.startswith("final;"):
            await self._join(concat.removeprefix("final;").split())
            return
        assert self.upload is not None
        try:
            outcome = await self.body_ended()
        except tornado.web.HTTPError:  # nobody knows its address yet
            await self.app.uploads.terminate(self.upload.id)
            raise
        self.set_header("Location", self._location(self.upload.id))
        self._answer(outcome, 201)

    async def _join(self, urls: list[str]) -> None:
        parts = [urlsplit(url).path.rsplit("/", 1)[-1] for url in urls]
        upload = await self.app.uploads.concatenate(parts, **self._fields())
        self.set_status(201)
        self.set_header("Location", self._location(upload.id))
        self.set_header("ODS-Package", upload.package)
        self.finish()

    def _location(self, id: str) -> str:
        """Where an upload goes on: at the host that the client came to, whatever the node's own URL is."""
        return f"{base_path(self.app.node_url)}/api/v1/uploads/{id}"

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
        if not offset.isascii() or not offset.isdigit() or len(offset) > MAX_DIGITS:
            raise InvalidInput("Upload-Offset is the number of the first byte of the body.")
        upload = await self.app.uploads.finish(self.path_args[0])
        if upload.parts:
            raise tornado.web.HTTPError(403, "An upload that joins others takes no bytes itself.")
        if upload.package and int(offset) == upload.offset:
            self.upload = upload
            return
        await self.begin(upload, int(offset))

    async def patch(self, _id: str) -> None:
        """The body is in the upload."""
        assert self.upload is not None
        if self.upload.package:  # it was complete before; the answer was lost
            self._show(self.upload)
            self.set_status(204)
            self.finish()
            return
        self._answer(await self.body_ended(), 204)

    async def head(self, id: str) -> None:
        """How much is here. Who asks means to go on, so a request that still waits for bytes is ended."""
        self._show(await self.app.uploads.finish(id))
        self.finish()

    def _show(self, upload: Upload) -> None:
        self.set_header("Upload-Offset", str(upload.offset))
        if upload.size is None:
            self.set_header("Upload-Defer-Length", "1")
        else:
            self.set_header("Upload-Length", str(upload.size))
        if upload.tus_metadata:
            self.set_header("Upload-Metadata", upload.tus_metadata)
        if upload.part:
            self.set_header("Upload-Concat", "partial")
        elif upload.parts:
            urls = " ".join(f"/api/v1/uploads/{part}" for part in upload.parts)
            self.set_header("Upload-Concat", f"final;{urls}")
        if upload.package:
            self.set_header("ODS-Package", upload.package)
        self.set_header("Upload-Expires", formatdate(upload.expires_at / 1000, usegmt=True))
        self.set_header("Cache-Control", "no-store")

    async def get(self, id: str) -> None:
        """How much is here, in JSON."""
        upload = await self.app.uploads.get(id)
        self.write_json({**upload_json(upload), "package": upload.package or None})

    async def delete(self, id: str) -> None:
        """End the upload and delete what arrived."""
        upload = await self.app.uploads.get(id)
        await self.app.uploads.terminate(id)
        await self.app.events.record(
            EventType.UPLOAD_ENDED,
            actor=self.actor,
            subject=id,
            filename=upload.filename,
            received=upload.offset,
        )
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
                except ValueError as exc:
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
        except ValueError as exc:
            raise InvalidInput(f'The value of "{key}" in Upload-Metadata is not base64 of UTF-8.') from exc
    return found
