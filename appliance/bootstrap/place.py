"""Where a node is: its name, its URL, its certificate, worked out from the settings."""

import datetime
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from appliance.peering.tls import fingerprint, make_certificate
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


def find_place(settings: Settings, layout: Layout) -> Place:
    """Work out the node's name, URL and certificate; a self-signed one is made if it is asked for and missing.

    Raises:
        InvalidSettings: The certificate cannot be used.
    """
    http, tls = settings.http, settings.http.tls
    url = settings.node.url
    if not url:
        host = http.host if http.host not in WILDCARDS else _own_host()
        host = f"[{host}]" if ":" in host else host
        url = f"{'https' if tls.enabled else 'http'}://{host}:{http.port}"
    certificate = key = None
    pinned = ""
    if tls.self_signed:
        certificate, key = layout.identity / "tls.crt", layout.identity / "tls.key"
        if not certificate.exists() or not key.exists():
            make_certificate(
                certificate, key, urlsplit(url).hostname or "", now=datetime.datetime.now(datetime.UTC)
            )
        pinned = fingerprint(certificate)
    elif tls.certificate:
        certificate, key = Path(tls.certificate), Path(tls.key)
    return Place(
        name=settings.node.name or socket.gethostname() or "node",
        url=url,
        tls_fingerprint=pinned,
        certificate=certificate,
        key=key,
    )


def _own_host() -> str:
    host = socket.getfqdn()
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return "127.0.0.1"
    return host if "localhost" not in host and not host.endswith(".arpa") else "127.0.0.1"
