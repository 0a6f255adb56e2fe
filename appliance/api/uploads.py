"""Uploads: the tus 1.0.0 protocol (https://tus.io/protocols/resumable-upload), and one plain PUT."""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from email.utils import formatdate
from typing import Any, ClassVar
from urllib.parse import urlsplit

import tornado.web

from appliance.domain.errors import (
    ApplianceError,
    DigestMismatch,
    InvalidInput,
    OffsetMismatch,
    WrongMediaType,
)
from appliance.domain.event import EventType
from appliance.domain.package import Effect, version_of
from appliance.peering.address import base_path
from appliance.service.accounts import Role
from appliance.service.uploads import Outcome, Upload

from .base import int_or_0
from .body import MISMATCH, BodyHandler
from .parameters import did_you_mean, flag
from .views import package_json, spread_notice, upload_json

TUS = "1.0.0"
MAX_DIGITS = 18  #: of a size or offset
EXTENSIONS = "creation,creation-with-upload,expiration,checksum,termination,concatenation"
SENTENCES = {
    Effect.CREATED: "The package was added.",
    Effect.REPLACED: "The package was replaced.",
    Effect.CHANGED: "This exact file is already here; its name, stage, tags or notes were changed.",
    Effect.REPAIRED: "The file was damaged here and is repaired.",
    Effect.UNCHANGED: "This exact file is already here.",
}
#: what can be said of a file, in the query of a PUT and in Upload-Metadata
_FIELDS = {"stage", "tags", "notes", "replace", "allow_empty", "sha1", "sha256"}


def refuse_forms(headers: Mapping[str, str]) -> None:
    """Refuse a form: what is in it is wrapped in something that is not the file.

    Raises:
        WrongMediaType: It is one.
    """
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind == "application/x-www-form-urlencoded":  # curl says so of whatever -d and --data-binary send
        raise WrongMediaType(
            "The body is declared as a form (curl -d, --data-binary and Python's urllib do that). Send the file with "
            "curl -T FILE, or add -H 'Content-Type: application/octet-stream'."
        )
    if kind.startswith("multipart/"):
        raise WrongMediaType(
            "The body is a form with the file in it (curl -F does that). Send the file alone: curl -T FILE."
        )


@tornado.web.stream_request_body
class PackagePutHandler(BodyHandler):
    """`PUT /api/v1/packages/{filename}`: one request, for curl and AutoPkg."""

    conditional = frozenset({"PUT"})
    remember = False
    _digest = ("", b"")  #: that the headers state

    def parameters(self, method: str) -> Iterable[str]:
        """What can be said of the file."""
        return _FIELDS if method == "PUT" else ()

    async def open_body(self) -> None:
        """Check everything before the body."""
        refuse_forms(self.request.headers)
        if "Content-Range" in self.request.headers:  # RFC 9110, 14.5: curl -C sends the end of a file only
            raise InvalidInput(
                "A PUT has the whole file; to resume one that was cut off, use tus or `ods package add`."
            )
        fields = {name: self.get_query_argument(name) for name in self.request.query_arguments}
        self._digest = stated_digest(self.request.headers)
        sha256 = self._digest[1].hex() if self._digest[0] == "sha256" else ""
        if sha256 and fields.get("sha256", sha256).lower() != sha256:
            raise InvalidInput("The parameter sha256 and the digest in the headers differ.")
        length = self.request.headers.get("Content-Length")
        unknown = length is None and "Transfer-Encoding" in self.request.headers
        upload = await self.app.uploads.create(
            filename=self.path_args[0],
            size=None if unknown else int_or_0(length),
            **file_fields({"sha256": sha256, **fields} if sha256 else fields),
            condition=self.precondition,
            actor=self.actor,
            within=self.within,
        )
        try:
            await self.begin(upload, 0)
        except ApplianceError:  # nobody knows its id
            await self.app.uploads.terminate(upload.id)
            raise

    def _checksum(self) -> tuple[str, bytes]:
        """The digest of the headers, if it is of a kind that is not computed of every package anyway."""
        return self._digest if self._digest[0] != "sha256" else ("", b"")

    async def put(self, _filename: str) -> None:
        """The body is complete."""
        try:
            outcome = await self.body_ended()
        except tornado.web.HTTPError as exc:
            if exc.status_code != MISMATCH or self.upload is None:
                raise
            await self.app.uploads.terminate(self.upload.id)
            raise DigestMismatch(
                "The body does not have the digest of its headers; nothing was kept."
            ) from exc
        assert outcome is not None
        package = outcome.package
        self.set_header("Location", f"/api/v1/packages/{package.id}")
        self.set_header("ETag", f'"{version_of(package.revision, package.author)}"')
        self.set_header("ODS-Effect", str(outcome.effect))
        self.write_json(
            {
                **package_json(package, self.app.download_url),
                "notice": spread_notice(await self.app.packages.spread(package.id)),
                "effect": str(outcome.effect),
                "message": SENTENCES[outcome.effect],
            },
            201 if outcome.created else 200,
        )


@tornado.web.stream_request_body
class MisplacedUploadHandler(BodyHandler):
    """A file that is sent to where none is taken; it streams so that a large one gets an answer, not a cut."""

    def parameters(self, _method: str) -> Iterable[str]:
        """Whatever comes: the answer is about the place."""
        return self.request.query_arguments

    async def open_body(self) -> None:
        """Say how to send it."""
        if self.request.path.startswith("/api/v1/"):
            refuse_forms(self.request.headers)
        raise tornado.web.HTTPError(405)

    def _allowed(self) -> str:
        return f"{super()._allowed()} {self.upload_hint}"


class MisplacedAtPackage(MisplacedUploadHandler):
    """`POST /api/v1/packages/{filename}`."""

    elsewhere = ("DELETE", "GET", "HEAD", "PATCH", "PUT")


class MisplacedAtPackages(MisplacedUploadHandler):
    """`/api/v1/packages`, without the slash behind which curl puts the file's name."""

    elsewhere = ("GET", "HEAD")


class MisplacedAtDownloads(MisplacedUploadHandler):
    """`/Packages/{filename}`, from where packages are downloaded."""

    open = True
    elsewhere = ("GET", "HEAD")


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
            self.set_header("ODS-Effect", str(outcome.effect))
        self.finish()


@tornado.web.stream_request_body
class UploadsHandler(TusHandler):
    """`/api/v1/uploads`: open an upload, list those that are not complete."""

    conditional = frozenset({"POST"})

    async def open_body(self) -> None:
        """Open the upload before the body, which may be its first bytes."""
        await super().open_body()
        if self.request.method != "POST":
            return
        refuse_forms(self.request.headers)
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
        if part and self.precondition is not None:
            raise InvalidInput("A condition is of the upload that joins the parts, not of a part.")
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
        others = metadata.keys() - _FIELDS - {"filename"}  # clients have words of their own, such as filetype
        for name in others:
            meant = did_you_mean(name, _FIELDS)
            if meant:
                raise InvalidInput(f'There is no "{name}" in Upload-Metadata{meant}')
        return {
            "filename": metadata.get("filename", ""),
            **file_fields(metadata),
            "condition": self.precondition,
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
        self.set_header("ODS-Effect", upload.effect)
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
            self.set_header("ODS-Effect", upload.effect)
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


def file_fields(given: Mapping[str, str]) -> dict[str, Any]:
    """What is said of a file, as `UploadService.create` takes it.

    A script's empty variable must not mean that nothing is checked, or that tags go away.

    Raises:
        InvalidInput: A value is empty that must not be, or is neither true nor false.
    """
    for name in ("tags", "sha1", "sha256"):
        if given.get(name) == "":
            raise InvalidInput(f"The value of {name} is empty; leave it out, or give it one.")
    return {
        "stage": given.get("stage"),
        "tags": split_tags(given.get("tags")),
        "notes": given.get("notes"),
        "replace": flag("replace", given.get("replace", "false")),
        "allow_empty": flag("allow_empty", given.get("allow_empty", "false")),
        "sha1": given.get("sha1", ""),
        "sha256": given.get("sha256", ""),
    }


def split_tags(text: str | None) -> list[str] | None:
    """Tags from a comma-separated list, None if there is no list."""
    if text is None:
        return None
    return [tag.strip() for tag in text.split(",") if tag.strip()]


#: the names of digests in headers, the preferred first: RFC 9530, and the older Digest of RFC 3230
_DIGESTS = {"sha-256": "sha256", "sha-512": "sha512", "sha": "sha1", "md5": "md5"}


def stated_digest(headers: Mapping[str, str]) -> tuple[str, bytes]:
    """The digest that headers state of the body, with hashlib's name for it, or "" and nothing.

    Of several the preferred one counts. One that cannot be checked is an error: whoever sends it relies on it.

    Raises:
        InvalidInput: A header is not valid, or has no digest that can be checked here.
    """
    stated: dict[str, tuple[str, str]] = {}
    for header in ("Digest", "Content-Digest", "Repr-Digest"):
        if header in headers:
            members = [member.strip().partition("=") for member in headers[header].split(",")]
            known = {kind.lower(): (header, value.strip(":")) for kind, _, value in members}
            if not known.keys() & _DIGESTS.keys():
                raise InvalidInput(f"{header} has no digest that is checked here; send sha-256.")
            stated |= known
    if "Content-MD5" in headers:
        stated.setdefault("md5", ("Content-MD5", headers["Content-MD5"]))
    for name, kind in _DIGESTS.items():
        if name in stated:
            return kind, _decoded(stated[name][0], kind, stated[name][1])
    return "", b""


def _decoded(header: str, kind: str, text: str) -> bytes:
    try:
        value = base64.b64decode(text.strip(), validate=True)
    except ValueError:
        value = b""
    if len(value) != hashlib.new(kind, usedforsecurity=False).digest_size:
        raise InvalidInput(f"{header} is not valid: the {kind} of the body in base64 is expected.")
    return value


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
        if key in found:
            raise InvalidInput(f'"{key}" is in Upload-Metadata more than once.')
        try:
            found[key] = base64.b64decode(value, validate=True).decode("utf-8")
        except ValueError as exc:
            raise InvalidInput(f'The value of "{key}" in Upload-Metadata is not base64 of UTF-8.') from exc
    return found
