"""Static files. Their address has a digest of them all, so browsers keep them for good and never show an old one."""

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

import tornado.web

from appliance.api.base import BaseHandler

PREFIX = "/ui/static"
_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """A file as it is sent."""

    type: str
    plain: bytes
    packed: bytes  #: by gzip


def _read(folder: Traversable, prefix: str = "") -> dict[str, Asset]:
    found: dict[str, Asset] = {}
    for entry in sorted(folder.iterdir(), key=lambda item: item.name):
        name = f"{prefix}{entry.name}"
        if entry.is_dir():
            found |= _read(entry, f"{name}/")
            continue
        suffix = "." + entry.name.rpartition(".")[2]
        kind = _TYPES.get(suffix) or mimetypes.guess_type(entry.name)[0] or "application/octet-stream"
        content = entry.read_bytes()
        found[name] = Asset(type=kind, plain=content, packed=gzip.compress(content, mtime=0))
    return found


ASSETS = _read(files("web") / "static")
_DIGEST = hashlib.sha256(
    b"".join(name.encode() + b"\0" + asset.plain for name, asset in ASSETS.items())
).hexdigest()[:16]


def asset_url(name: str) -> str:
    """The address of a static file.

    Raises:
        KeyError: There is none of this name.
    """
    ASSETS[name]
    return f"{PREFIX}/{_DIGEST}/{name}"


class AssetHandler(BaseHandler):
    """`/ui/static/{digest}/{name}`: nothing secret, so no session."""

    open = True

    async def get(self, digest: str, name: str) -> None:
        """A file. Under an old digest it comes too, to be asked for again next time."""
        asset = ASSETS.get(name)
        if asset is None:
            raise tornado.web.HTTPError(404, "There is no such file.")
        current = digest == _DIGEST
        self.set_header("Cache-Control", "public, max-age=31536000, immutable" if current else "no-cache")
        self.set_header("Content-Type", asset.type)
        self.set_header("Vary", "Accept-Encoding")
        if "gzip" in self.request.headers.get("Accept-Encoding", ""):
            self.set_header("Content-Encoding", "gzip")
            self.finish(asset.packed)
        else:
            self.finish(asset.plain)
