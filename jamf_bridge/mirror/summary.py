"""What one run of the mirror came to."""

from dataclasses import dataclass


@dataclass(slots=True)
class MirrorSummary:
    """How many packages ended how."""

    written: int = 0  #: records created, brought up to date, marked or deleted
    unchanged: int = 0
    waiting: int = 0  #: for bytes, hashes, an upload, or the MDM
    conflicts: int = 0
    failed: int = 0  #: refused, now or lately
    missing: int = 0  #: of those that wait: a record was not listed, and is looked for again soon
