"""What the name of an installer file says about it."""

import re

_EXTENSION = re.compile(r"(\.m?pkg\.zip|\.m?pkg|\.dmg|\.zip|\.[a-z]{1,8})$", re.IGNORECASE)
_DOTTED = re.compile(r"(?<![0-9.])[0-9]+(?:\.[0-9]+)+(?:(?:a|b|rc|alpha|beta)[0-9]*)?", re.IGNORECASE)
_NUMBER_AT_END = re.compile(r"[-_ ]v?([0-9]+)$", re.IGNORECASE)


def stem(filename: str) -> str:
    """A file name without its extension: `Tool-1.0` of `Tool-1.0.pkg.zip`."""
    return _EXTENSION.sub("", filename) or filename


def version(filename: str) -> str:
    """The version in a file name: its last dotted number, or a number at the end of the stem; "" if there is none."""
    name = stem(filename)
    dotted = _DOTTED.findall(name)
    if dotted:
        return str(dotted[-1])
    at_end = _NUMBER_AT_END.search(name)
    return at_end[1] if at_end else ""
