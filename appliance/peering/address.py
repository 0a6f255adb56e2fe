"""Where a peer is, and how it proves that it is the one."""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from appliance.domain.errors import InvalidInput

#: Peers send each other their URLs, and these become request lines: no more than a URL of a node needs. No user
#: information, no escapes, no dot segments, which libraries rewrite after the signature was made.
_URL = re.compile(
    r"https?://"
    r"(?:\[[0-9A-Fa-f:.]{2,45}\]|(?=[A-Za-z0-9._-]{1,253}(?:[:/]|\Z))"
    r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)*)"
    r"(?::[0-9]{1,5})?"
    r"(?:(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~-]+){0,8})/?"
)


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
    match = _URL.fullmatch(url)
    try:
        fits = match is not None and urlsplit(url).port != 0
    except ValueError:  # a port above 65,535, or brackets without an address
        fits = False
    if not fits:
        raise InvalidInput(f"{url[:200]!r} is not a node URL such as https://ods.example.com:8440.")
    return url.rstrip("/")


def base_path(url: str) -> str:
    """What a proxy before the node takes off the paths of requests: the path of the node's URL, often empty."""
    return urlsplit(url).path.rstrip("/")


def authority(url: str) -> str:
    """Host and port of a URL as the signature covers them: lower case, without the scheme's default port."""
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return host if parts.port in {None, default} else f"{host}:{parts.port}"
