"""Names in filters and DNs, made safe and comparable."""

import re
import unicodedata
from collections.abc import Mapping

from ldap3.core.exceptions import LDAPInvalidDnError
from ldap3.utils.dn import parse_dn

MAX_LOGIN = 256
_PLACE = re.compile(r"\{(username|dn)\}")
_SPECIAL = re.compile(r"[\x00-\x1f\x7f*()\\]|^\s+|\s+$")  # ldap3 would drop spaces at the ends
_ESCAPED = re.compile(rb"\\([0-9a-fA-F]{2})|\\(.)", re.DOTALL)

DnKey = tuple[tuple[str, str], ...]


def filled(template: str, values: Mapping[str, str]) -> str:
    """A filter with the values in their places, escaped (RFC 4515, section 3), so that each stays one value."""
    return _PLACE.sub(lambda match: escaped(values[match[1]]), template)


def escaped(value: str) -> str:
    """A value as it is written in a filter."""
    return _SPECIAL.sub(lambda match: "".join(f"\\{byte:02x}" for byte in match[0].encode()), value)


def is_login(text: str) -> bool:
    """Whether somebody may be called so: printable, and without the spaces that servers ignore."""
    return 0 < len(text) <= MAX_LOGIN and text.isprintable() and text == " ".join(text.split())


def login_key(text: str) -> str:
    """Spellings that a directory takes for the same name have the same key."""
    return unicodedata.normalize("NFKC", text).casefold()


def dn_key(dn: str) -> DnKey | None:
    """A DN in a form in which two spellings of it are equal, None if it is no DN.

    Case and spaces around parts do not matter (RFC 4517, caseIgnoreMatch, which names of groups follow).
    """
    try:
        parts = parse_dn(dn, escape=False, strip=True)
    except (LDAPInvalidDnError, IndexError):
        return None
    return tuple((kind.lower(), _plain(value)) for kind, value, _ in parts)


def _plain(value: str) -> str:
    raw = _ESCAPED.sub(
        lambda match: bytes.fromhex(match[1].decode()) if match[1] else match[2], value.encode()
    )
    return login_key(" ".join(raw.decode("utf-8", "replace").split()))
