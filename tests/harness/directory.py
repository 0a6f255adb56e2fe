"""A node that asks a directory."""

from .people import GRANTS
from .slapd import BASE, READER, READER_PASSWORD, Authority


def directory_settings(authority: Authority, *urls: str) -> dict[str, str]:
    """The settings of a node that asks these servers."""
    return {
        "DIRECTORY_SERVERS": ",".join(urls),
        "DIRECTORY_CA_FILE": str(authority.file),
        "DIRECTORY_BIND_DN": READER,
        "DIRECTORY_BIND_PASSWORD": READER_PASSWORD,
        "DIRECTORY_BASE_DN": BASE,
        "DIRECTORY_GROUPS": ";".join(f"{group}={grant}" for group, grant in GRANTS.items()),
        "DIRECTORY_CONNECT_TIMEOUT_S": "2",
        "DIRECTORY_RECEIVE_TIMEOUT_S": "2",
        "DIRECTORY_RECHECK_S": "10",
    }
