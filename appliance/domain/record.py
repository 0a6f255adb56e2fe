"""What the network agrees on: signed records, and which of two records wins.

A record is a `node`, a `package` or a `replica`. It is written by one author, signed with the author's key, and
relayed unchanged. Its rank is (revision, author, time, signature): the higher rank wins on every node, so the
network converges whatever the order of arrival. The last two parts only matter when a node was restored from an
old copy and used one revision twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

TOMBSTONE_LIFE_MS = 90 * 24 * 3600 * 1000
MAX_NESTING = 32  #: levels of objects and lists in a record; MongoDB keeps at most 100


class RecordKind(StrEnum):
    """What a record describes."""

    NODE = "node"  #: a node: only that node writes it; any node of the network may write that it is gone
    PACKAGE = "package"  #: a package: any node of the network may write the next revision
    REPLICA = "replica"  #: that a node holds, or does not hold, a package: only that node writes it


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One signed record."""

    kind: RecordKind
    id: str  #: node id, package id, or "<package id>.<node id>"
    revision: int  #: counts from 1; the next writer adds 1 to the highest it knows
    author: str  #: node id of the writer
    key: str  #: the author's Ed25519 public key, base64; hashes to `author`
    at: int  #: when it was written, UTC milliseconds by the author's clock
    deleted: bool  #: a tombstone, kept 90 days
    body: Mapping[str, Any]  #: by kind: see `package.PackageBody`, `node.NodeBody`, `package.ReplicaBody`
    signature: str  #: Ed25519 over the canonical JSON of all other fields, base64

    @property
    def key_in_store(self) -> str:
        """The document id of the newest record of this kind and id."""
        return f"{self.kind}:{self.id}"

    @property
    def rank(self) -> tuple[int, str, int, str]:
        """Compare by this: the greater wins."""
        return (self.revision, self.author, self.at, self.signature)

    def outranks(self, other: "Record | None") -> bool:
        """Whether this record replaces `other`."""
        return other is None or self.rank > other.rank


def replica_id(package: str, node: str) -> str:
    """The record id of "node N holds package P"."""
    return f"{package}.{node}"


def nested_too_deep(value: object) -> bool:
    """Whether objects and lists are nested deeper than a record may be."""
    level = [value]
    for _ in range(MAX_NESTING + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list | tuple)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True
