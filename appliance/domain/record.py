"""What the network agrees on: signed records, and which of two records wins.

A record is a `node`, a `package` or a `replica`. It is written by one author, signed with the author's key, and
relayed unchanged. Its rank is (revision, author, time, signature): the higher rank wins on every node, so the
network converges whatever the order of arrival. The last two parts only matter when a node was restored from an
old copy and used one revision twice.

A revision is a hybrid clock: the larger of the known revision + 1 and the time in milliseconds. Nobody takes a record
that is more than an hour ahead, so nobody can freeze a name or exhaust the counter. Of one that was written here while
the clock was wrong, the revision says nothing: what it replaced is older, and anything else takes its place. Revisions
of earlier versions counted from 1: they are valid, and any new one outranks them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

TOMBSTONE_LIFE_MS = 90 * 24 * 3600 * 1000
MAX_NESTING = 32  #: levels of objects and lists in a record; MongoDB keeps at most 100
MAX_NUMBER = 2**53 - 1  #: what JSON carries without loss
AHEAD_MS = 3_600_000  #: a record that is further ahead of the reader's clock is refused
PASSED_ON_MS = AHEAD_MS - 120_000  #: and no node passes on what a peer with a slower clock could refuse
FAR_MS = (
    100 * 366 * 24 * 3600 * 1000
)  #: no clock is wrong by so much: what is this far ahead is no time at all


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
    revision: int  #: positive; see `next_revision`
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

    def outranks(self, other: "Record | None", now: int | None = None, replaced: Sequence[int] = ()) -> bool:
        """Whether this record replaces `other`, by one of three rules.

        1. Anything replaces nothing.
        2. If `other` is too far ahead of the clock to be taken, and this record is not, the revision of `other` says
           nothing: this record replaces it if it is newer than what `other` replaced.
        3. Otherwise the higher rank wins.

        Args:
            other: What is known.
            now: UTC milliseconds; without it, nothing counts as ahead, and the second rule does not apply.
            replaced: The revisions that `other` replaced, as far as they are known, newest first: the first of them
                that is not ahead itself is what the second rule compares with.
        """
        if other is None:
            return True
        if now is not None and ahead_ms(other, now) > AHEAD_MS >= ahead_ms(self, now):
            before = next((revision for revision in replaced if revision - now <= AHEAD_MS), None)
            return self.revision > (before if before is not None else min(replaced, default=0))
        return self.rank > other.rank


def replica_id(package: str, node: str) -> str:
    """The record id of "node N holds package P"."""
    return f"{package}.{node}"


def ahead_ms(record: Record, now: int) -> int:
    """By how many milliseconds a record is ahead of the time `now`; negative if it is not."""
    return max(record.revision, record.at) - now


def next_revision(known: Record | None, now: int, *, trusted: bool) -> int:
    """The revision of the record that is to replace `known`.

    It never is lower, except above a record that is too far ahead for others to take. If that is certain: a known
    record may also be ahead because this node's clock is behind.

    Args:
        known: The newest record that is known, if there is one.
        now: UTC milliseconds.
        trusted: Whether this node's clock is known to be right.
    """
    if known is None:
        return now
    ahead = ahead_ms(known, now)
    if ahead > FAR_MS or (ahead > AHEAD_MS and trusted):
        return now
    return max(known.revision + 1, now)


def oddity(value: object) -> str | None:
    """What at any depth of a record has no place there, in words: it is no JSON, or comes back changed from a database.

    BSON has no NUL in names, and its readers take a mapping with `$ref` for a reference.
    """
    level = [value]
    while level:
        deeper: list[object] = []
        for outer in level:
            if isinstance(outer, dict):
                for name, inner in outer.items():
                    if not isinstance(name, str) or "\0" in name or name == "$ref":
                        return f"a field named {name!r:.80}"
                    deeper.append(inner)
            elif isinstance(outer, list | tuple):
                deeper.extend(outer)
            elif outer is not None and not isinstance(outer, str | int | float):
                return f"a value of the kind {type(outer).__name__}"
        level = deeper
    return None


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
