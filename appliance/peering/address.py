"""Where a peer is, and how it proves that it is the one."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from appliance.domain.errors import InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAddress:
    """A peer to call."""

    node: str  #: node id
    url: str  #: base URL without a trailing slash
    tls_fingerprint: str = ""  #: SHA-256 of the DER certificate, hex: pinned if given, else verified
    ca_file: str = ""  #: PEM authorities to trust beside the system's

    @property
    def tls(self) -> bool:
        """Whether it is called over TLS."""
        return self.url.startswith("https://")

    @property
    def host_port(self) -> tuple[str, int]:
        """Host name and port to connect to."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or (443 if self.tls else 80)


def check_url(url: str) -> str:
    """Return a node's base URL without a trailing slash.

    Raises:
        InvalidInput: It is not http(s)://host[:port][/path].
    """
    parts = urlsplit(url)
    try:
        port_fits = parts.port is None or parts.port > 0
    except ValueError:
        port_fits = False
    if (
        parts.scheme not in {"http", "https"}
        or not parts.hostname
        or not port_fits
        or parts.query
        or parts.fragment
    ):
        raise InvalidInput(f'"{url}" is not a node URL such as https://ods.example.com:8440.')
    return url.rstrip("/")


def authority(url: str) -> str:
    """Host and port of a URL as the signature covers them: lower case, without the scheme's default port."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return host if parts.port in {None, default} else f"{host}:{parts.port}"
