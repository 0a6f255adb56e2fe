"""What a run remembers, to know at its end what must be true: acknowledged changes, and what was broken on purpose."""

import hashlib
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Rank = tuple[int, str, str]  #: revision, author, time: the order of `domain.record.Record.rank`


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Bytes that follow from a number, so that nobody has to keep them."""

    key: int
    size: int

    def data(self) -> bytes:
        """The bytes."""
        return random.Random(self.key).randbytes(self.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a record says of a package, and the record's rank."""

    rank: Rank
    sha256: str
    stage: str
    tags: tuple[str, ...]
    withdrawn: bool

    @classmethod
    def of(cls, package: Mapping[str, Any]) -> "State":
        """As the API shows it."""
        return cls(
            rank=(package["revision"], package["author"], package["changed_at"]),
            sha256=package["sha256"],
            stage=package["stage"],
            tags=tuple(sorted(package["tags"])),
            withdrawn=package["withdrawn"],
        )

    @property
    def words(self) -> tuple[object, ...]:
        """All but the rank."""
        return (self.sha256, self.stage, self.tags, self.withdrawn)


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A change of a package that a node was asked for."""

    node: int
    name: str
    began: float  #: monotonic seconds
    ended: float
    state: State | None  #: what the node acknowledged; None if it did not, and may have done it all the same


@dataclass(slots=True)
class Ledger:
    """The memory of one run. Safe from several threads."""

    writes: list[Write] = field(default_factory=list)
    contents: dict[str, Content] = field(default_factory=dict)  #: by SHA-256
    history: dict[str, list[str]] = field(default_factory=dict)  #: by name: SHA-256 of its uploads, in order
    damaged: set[tuple[int, str]] = field(default_factory=set)  #: node and SHA-256: broken on purpose there
    endangered: set[str] = field(default_factory=set)  #: SHA-256 of which a copy was destroyed
    rollbacks: list[tuple[int, float, float]] = field(default_factory=list)  #: node, and the time it lost
    cancelled: set[str] = field(default_factory=set)  #: names of which a person cancelled a transfer
    faults: list[str] = field(default_factory=list)  #: what was wrong at once, whatever comes later
    lock: threading.Lock = field(default_factory=threading.Lock)

    def content(self, name: str, content: Content) -> tuple[bytes, str]:
        """The bytes of a content that is about to be put in under a name, and their SHA-256."""
        data = content.data()
        sha256 = hashlib.sha256(data).hexdigest()
        with self.lock:
            self.contents[sha256] = content
            self.history.setdefault(name, []).append(sha256)
        return data, sha256

    def wrote(self, node: int, name: str, began: float, package: Mapping[str, Any] | None) -> None:
        """Note a change: what the node answered, or None if the answer is not known or an error of the node."""
        state = State.of(package) if package is not None else None
        with self.lock:
            self.writes.append(Write(node=node, name=name, began=began, ended=time.monotonic(), state=state))

    def fault(self, text: str) -> None:
        """Note something that must never happen."""
        with self.lock:
            if text not in self.faults:
                self.faults.append(text)

    def break_blob(self, node: int, sha256: str) -> None:
        """Note that a copy is about to be broken."""
        with self.lock:
            self.damaged.add((node, sha256))
            self.endangered.add(sha256)

    def at_risk(self, write: Write) -> bool:
        """Whether the node that made a change was put back to an earlier time: nobody else need have learned of it.

        A copy of a folder or an export holds what had been written when it was made. What the node wrote later and
        told a peer comes back from there; what it had told nobody is lost, and no program can help that.
        """
        return any(
            node == write.node and start <= write.ended and write.began <= end
            for node, start, end in self.rollbacks
        )

    def known(self, name: str, sha256: str) -> bool:
        """Whether these bytes were ever put in under this name."""
        return sha256 in self.history.get(name, ())
