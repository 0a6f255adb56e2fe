"""File names as an MDM has them: macOS clients may send letters with marks in two parts (NFD), ODS has them in one."""

import unicodedata


def nfc(name: str) -> str:
    """A name as ODS has it."""
    return unicodedata.normalize("NFC", name)


def forms(name: str) -> list[str]:
    """A name as an MDM may have it: to be looked up by each."""
    return list(dict.fromkeys((nfc(name), unicodedata.normalize("NFD", name))))
