"""Versions of Jamf Pro."""

import re
from typing import NamedTuple

_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?")


class JamfVersion(NamedTuple):
    """Such as 11.25.2; compares as a tuple. What follows it ("-t1784555528405") is left out."""

    major: int
    minor: int
    patch: int

    @classmethod
    def parse(cls, text: str) -> "JamfVersion":
        """Read a version; what cannot be read is 0.0.0.

        Args:
            text: As `GET /api/v1/jamf-pro-version` gives it.
        """
        found = _VERSION.match(text.strip()) if text.isascii() else None
        return cls(int(found[1]), int(found[2]), int(found[3] or 0)) if found else cls(0, 0, 0)

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"
