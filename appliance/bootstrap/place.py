"""Where a node is: its name, its URL, its certificate, worked out from the settings."""

import datetime
import socket
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from appliance.domain.errors import InvalidSettings
from appliance.peering.tls import fingerprint, new_certificate, server_context, write_certificate
from appliance.store.layout import Layout
from config.settings import Settings

Announce = Callable[[str], None]  #: shows a line to the person who started the node
WILDCARDS = {"", "0.0.0.0", "::"}  # noqa: S104


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where this node is, worked out from the settings."""

    name: str
    url: str
    tls_fingerprint: str
    certificate: Path | None
    key: Path | None
    tls: ssl.SSLContext | None  #: what to serve with
    made: tuple[bytes, bytes] | None = (
        None  #: certificate and key that were made now and are nowhere yet, PEM
    )

    def keep(self) -> None:
        """Write a certificate that was made now."""
        if self.made is not None and self.certificate is not None and self.key is not None:
            write_certificate(self.certificate, self.key, self.made)


def find_place(settings: Settings, layout: Layout) -> Place:
    """Work out the node's name, URL and certificate; a self-signed one is made if it is asked for and missing.

    Nothing is written; `Place.keep` does that, once the directory is known to be this node's.

    Raises:
        InvalidSettings: The certificate cannot be used.
    """
    http, tls = settings.http, settings.http.tls
    url = settings.node.url
    if not url:
        host = http.host if http.host not in WILDCARDS else _own_host()
        host = f"[{host}]" if ":" in host else host
        url = f"{'https' if tls.enabled else 'http'}://{host}:{http.port}"
    certificate = key = context = made = None
    pinned = ""
    if tls.self_signed:
        certificate, key = layout.identity / "tls.crt", layout.identity / "tls.key"
        if not certificate.exists() or not key.exists():
            made = new_certificate(urlsplit(url).hostname or "", now=datetime.datetime.now(datetime.UTC))
        pinned, context = _self_signed(certificate, key, made)
    elif tls.certificate:
        certificate, key = Path(tls.certificate), Path(tls.key)
        context = server_context(certificate, key)
    return Place(
        name=settings.node.name or socket.gethostname() or "node",
        url=url,
        tls_fingerprint=pinned,
        certificate=certificate,
        key=key,
        tls=context,
        made=made,
    )


def _self_signed(
    certificate: Path, key: Path, made: tuple[bytes, bytes] | None
) -> tuple[str, ssl.SSLContext]:
    """Fingerprint and context of a self-signed certificate that is in its files, or was made now."""
    if made is not None:
        with tempfile.TemporaryDirectory() as directory:  # OpenSSL reads files only
            files = Path(directory, "crt"), Path(directory, "key")
            write_certificate(*files, made)
            return fingerprint(files[0]), server_context(*files)
    try:
        return fingerprint(certificate), server_context(certificate, key)
    except InvalidSettings as exc:
        raise InvalidSettings(
            f"{exc.message.rstrip('.')}. Restore both files from a backup; or delete both, and the node makes new ones "
            "and tells its peers."
        ) from exc


def _own_host() -> str:
    host = socket.getfqdn()
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return "127.0.0.1"
    return host if "localhost" not in host and not host.endswith(".arpa") else "127.0.0.1"
