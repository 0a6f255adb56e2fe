"""Rules for file names, and the package id that follows from a name.

A file name is one path segment that every node can store, whatever its operating system. Sources: the reserved
names and characters of Windows ("Naming Files, Paths, and Namespaces", learn.microsoft.com), 255 bytes as the
limit of ext4, APFS and NTFS names, NFC as the form that HFS+ and APFS clients send in URLs.
"""

import base64
import hashlib
import re
import unicodedata

from .errors import InvalidName

MAX_NAME_BYTES = 255

_FORBIDDEN = set('/\\:*?"<>|')
_RESERVED = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    f"{device}{digit}" for device in ("com", "lpt") for digit in "0123456789¹²³"
}


def check_filename(name: str) -> str:
    """Return `name` in NFC, or say which rule it breaks.

    Raises:
        InvalidName: The message names the rule.
    """
    name = unicodedata.normalize("NFC", name)
    if not name:
        raise InvalidName("The file name is empty.")
    try:
        encoded = name.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise InvalidName("The file name is not valid Unicode.") from exc
    if len(encoded) > MAX_NAME_BYTES:
        raise InvalidName(
            f"The file name is {len(encoded)} bytes long; at most {MAX_NAME_BYTES} are allowed."
        )
    for character in name:
        if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}:
            raise InvalidName(
                f"The file name contains the control or format character U+{ord(character):04X}."
            )
        if character in _FORBIDDEN:
            raise InvalidName(f'The file name contains "{character}"; / \\ : * ? " < > | are not allowed.')
    if name.startswith("."):
        raise InvalidName("The file name begins with a dot.")
    if name != name.strip() or name.endswith("."):
        raise InvalidName("The file name begins or ends with a space, or ends with a dot.")
    if name.split(".", 1)[0].rstrip().casefold() in _RESERVED:
        raise InvalidName("The file name is reserved on Windows (CON, PRN, AUX, NUL, COM1, LPT1, ...).")
    return name


def package_id(filename: str) -> str:
    """The id of the package of this name: the same on every node that ever sees the name.

    Names that differ in case only are one package, because many file systems cannot keep both.

    Args:
        filename: A name that `check_filename` accepts.

    Returns:
        32 lower-case base32 characters (160 bits).
    """
    key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", filename).casefold())
    digest = hashlib.sha256(b"ods-package\0" + key.encode("utf-8")).digest()
    return base64.b32encode(digest[:20]).decode("ascii").lower()


def is_package_id(text: str) -> bool:
    """Whether a text has the form of a package id."""
    return re.fullmatch(r"[a-z2-7]{32}", text) is not None


def node_id(public_key: bytes) -> str:
    """The id of the node that holds this Ed25519 key: 52 lower-case base32 characters of its SHA-256.

    Args:
        public_key: The 32 raw bytes of the public key.
    """
    return base64.b32encode(hashlib.sha256(public_key).digest()).decode("ascii").lower().rstrip("=")
