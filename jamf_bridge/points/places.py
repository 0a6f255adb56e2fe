"""Where a distribution point record points to, in the words of the drivers that there are."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

_SERVER = ("server", "serverName", "ip_address")  #: our own word; Jamf Pro API; Jamf Classic API
_PORT = ("httpsPort", "port")  #: in the Pro API "port" is that of the file share
_PRINCIPAL = ("principal", "is_master")
_DEFAULT = {"https": 443, "http": 80}


def same_place(url: str, record: Mapping[str, Any]) -> bool:
    """Whether a record names the server and the port of a node's URL."""
    parts = urlsplit(url)
    server = next((str(record[word]) for word in _SERVER if record.get(word)), "")
    port = next((str(record[word]) for word in _PORT if record.get(word)), "")
    try:
        wanted = parts.port or _DEFAULT.get(parts.scheme, 0)
    except ValueError:  # a port above 65,535
        return False
    return bool(parts.hostname) and server.casefold() == parts.hostname and port == str(wanted)


def same_server(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records name the same server."""
    found = [next((str(record[word]) for word in _SERVER if record.get(word)), "") for record in (one, other)]
    return bool(found[0]) and found[0].casefold() == found[1].casefold()


def is_principal(record: Mapping[str, Any]) -> bool:
    """Whether somebody made a record the MDM's principal distribution point."""
    return any(str(record.get(word, "")).casefold() == "true" for word in _PRINCIPAL)
