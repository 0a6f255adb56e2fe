"""What a node does about one package's bytes: keep, fetch, adopt or release them, and the sentence that says why."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from .moment import clock
from .node import Admission
from .package import Presence

_REPAIR = ". Upload the same file again to repair it"


class Action(Enum):
    """What to do with the bytes."""

    NOTHING = "nothing"  #: neither here nor to be fetched now
    KEEP = "keep"  #: here and served
    ADOPT = "adopt"  #: on this disk already: serve them under the name
    FETCH = "fetch"  #: start or continue a transfer
    RELEASE = "release"  #: stop serving what is here and free the disk


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """A source that is not asked for a package for a while."""

    name: str  #: of the node
    until: int  #: UTC milliseconds
    reason: str  #: what it did


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """All that the decision depends on."""

    withdrawn: bool
    admission: Admission
    held_current: bool  #: the bytes of the newest record are served here
    held_old: bool  #: other bytes of this name are served here
    on_disk: bool  #: the bytes of the newest record are on this disk, verified, with their manifest
    shared: bool = False  #: another package is served from them here or waits for them, so they stay
    unverified: bool = False  #: a file of that SHA-256 is on this disk, and is read before it is `on_disk`
    damaged: bool  #: the file here failed verification, or was lost, and is not whole again
    given_up: bool = False  #: the bytes were refused and not missed here before
    cancelled: bool  #: a person stopped the transfer
    sources: Sequence[str]  #: names of registered peers that hold the bytes
    out_of_reach: Sequence[str]  #: names of other nodes that hold them
    safe_elsewhere: bool  #: a node that admits the package holds the bytes
    proven_elsewhere: bool  #: such a node has just given a chunk of them
    keeper_names: Sequence[str] = ()  #: names of the nodes that admit the package and hold the bytes
    asking: bool = False  #: they are being asked for a chunk, or will be again
    unproven: str = ""  #: why that did not prove anything the last time
    trouble: str = ""  #: why the transfer stopped, if it did
    retry_at: int = 0  #: when it may begin again, UTC milliseconds; 0: at any time
    set_aside: Sequence[SetAside] = ()  #: registered peers that hold the bytes and are not asked now
    damaged_at: Sequence[str] = ()  #: names of other nodes whose file was damaged


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do, what to call the result, and why."""

    action: Action
    presence: Presence
    reason: str
    retry_at: int = (
        0  #: when what is missing is looked at again, UTC milliseconds; 0: at the next reconciliation
    )
    prove: bool = False  #: whether to begin asking other nodes for a chunk, so that the bytes can be released


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A node has just given a chunk of these bytes, and the chunk was right."""

    node: str  #: node id
    sha256: str


def decide(now: Situation) -> Decision:
    """Decide about one package.

    The last copy of a package is never released because of a stage or tag: not before a node that admits the
    package proves that it holds it. Bytes that are found on the disk are such a copy too: the database may be
    older. Those that another package needs here are not: they stay, and no proof is asked for. A last copy that
    was damaged is wanted back likewise: it is fetched from whoever holds it, and is called damaged where nobody
    can give it.
    """
    here = now.held_current or now.held_old
    if now.withdrawn:
        action = Action.RELEASE if here or now.on_disk else Action.NOTHING
        return Decision(action=action, presence=Presence.WITHDRAWN, reason="the package was withdrawn")
    if not now.admission.admitted:
        if (now.held_current or now.on_disk) and not now.safe_elsewhere:
            return Decision(
                action=Action.KEEP if now.held_current else Action.ADOPT,
                presence=Presence.HELD,
                reason=f"{now.admission.reason}; this copy is kept until a node that admits the package has it",
            )
        own = now.held_current or (now.on_disk and not now.shared)
        if own and not now.proven_elsewhere:
            holder = " or ".join(now.keeper_names[:3])
            failed = f" ({now.unproven.rstrip('.')})" if now.unproven else ""
            return Decision(
                action=Action.KEEP if now.held_current else Action.ADOPT,
                presence=Presence.HELD,
                reason=f"{now.admission.reason}; this copy is kept until {holder} proves that it has the file{failed}",
                prove=not now.asking,
            )
        missed = now.damaged and not now.on_disk and not now.held_current
        proven = now.safe_elsewhere and (now.proven_elsewhere or now.given_up)
        if not missed or proven:
            return Decision(
                action=Action.RELEASE if own or now.held_old else Action.NOTHING,
                presence=Presence.NOT_ADMITTED,
                reason=now.admission.reason,
            )
        return replace(_decide_wanted(now), prove=now.safe_elsewhere and not now.asking)
    return _decide_wanted(now)


def _decide_wanted(now: Situation) -> Decision:
    """Decide about bytes that should be here: they are admitted, or the last copy is lost here."""
    if now.held_current:
        return Decision(action=Action.KEEP, presence=Presence.HELD, reason=now.admission.reason)
    if now.on_disk:
        return Decision(action=Action.ADOPT, presence=Presence.HELD, reason=now.admission.reason)
    if now.damaged and not now.sources:
        return _damaged(now)
    if now.cancelled:
        return Decision(
            action=Action.NOTHING,
            presence=Presence.WAITING,
            reason="its transfer was cancelled; retry the transfer to fetch it",
        )
    if now.sources:
        stopped = f"; it stopped: {now.trouble}" if now.trouble else ""
        return Decision(
            action=Action.FETCH,
            presence=Presence.ARRIVING,
            reason=f"fetched from {_names(now.sources)}{stopped}",
            retry_at=now.retry_at,
        )
    lost = now.damaged_at and not now.set_aside and not now.out_of_reach
    why = f"{_where(now)}; the file on {_names(now.damaged_at)} is damaged{_REPAIR}" if lost else _where(now)
    return Decision(action=Action.NOTHING, presence=Presence.WAITING, reason=why, retry_at=_asked_again(now))


def _damaged(now: Situation) -> Decision:
    """What is damaged here, and no node can give now."""
    return Decision(
        action=Action.NOTHING,
        presence=Presence.DAMAGED,
        reason=f"the file here is damaged or missing; {_where(now)}{_REPAIR}",
        retry_at=_asked_again(now),
    )


def _where(now: Situation) -> str:
    """Where the bytes are that no node can give now."""
    if now.set_aside:
        first = min(now.set_aside, key=lambda source: (source.until, source.name))
        return f"{first.name} sent wrong data and is asked again at {clock(first.until)}: {first.reason.rstrip('.')}"
    if now.out_of_reach:
        has = "has" if len(now.out_of_reach) == 1 else "have"
        return f"can't reach {_names(now.out_of_reach)}, which {has} a copy: not paired, or down"
    return "no node is known to hold it"


def _asked_again(now: Situation) -> int:
    return min((source.until for source in now.set_aside), default=0)


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
