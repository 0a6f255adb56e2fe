"""What follows from a decision about a package: the new view of it, and the events to log. Pure functions."""

from appliance.domain.event import EventType
from appliance.domain.holding import Action, Decision
from appliance.domain.package import WANTED, Package, PackageBody
from appliance.domain.record import Record
from appliance.store.ports import Insert

from .journal import SYSTEM, entry


def view_of(
    record: Record, body: PackageBody, old: Package | None, decision: Decision, *, at: int
) -> Package:
    """This node's view of a package after the decision is carried out at a time, UTC milliseconds."""
    held_sha256, held_filename = (old.held_sha256, old.held_filename) if old else ("", "")
    if decision.action in {Action.ADOPT, Action.KEEP}:
        held_sha256, held_filename = body.sha256, body.filename
    elif decision.action is Action.RELEASE:
        held_sha256, held_filename = "", ""
    return Package(
        id=record.id,
        revision=record.revision,
        author=record.author,
        at=record.at,
        withdrawn=record.deleted,
        body=body,
        presence=decision.presence,
        reason=decision.reason,
        held_sha256=held_sha256,
        held_filename=held_filename,
        wanted_since=_wanted_since(old, body, at) if decision.presence in WANTED else 0,
        retry_at=decision.retry_at,
    )


def _wanted_since(old: Package | None, body: PackageBody, at: int) -> int:
    same = old is not None and old.body.sha256 == body.sha256
    return old.wanted_since if same and old is not None and old.wanted_since else at


def lost_to_another(old: Package | None, body: PackageBody) -> bool:
    """Whether bytes held here lose their name to a file whose author never saw them."""
    return bool(
        old and not old.withdrawn and old.held_sha256 and old.held_sha256 not in {body.sha256, *body.replaces}
    )


def events_of(old: Package | None, view: Package, decision: Decision, *, actor: str, at: int) -> list[Insert]:
    """The events that tell how `old` became `view`.

    Args:
        old: The view before, None for a package that is new here.
        view: The view now.
        decision: What was decided.
        actor: Who changed the record here, or "" if it came from a peer.
        at: UTC milliseconds.
    """
    body, found = view.body, []
    who = actor or f"node:{view.author}"

    def log(type: EventType, by: str = who, **data: object) -> None:
        found.append(entry(type, at=at, actor=by, subject=view.id, filename=body.filename, **data))

    if view.withdrawn:
        if old is not None and not old.withdrawn:
            log(EventType.PACKAGE_WITHDRAWN, sha256=body.sha256)
    elif old is None or old.withdrawn:
        log(EventType.PACKAGE_PUBLISHED, sha256=body.sha256, size=body.size, stage=body.stage)
    elif old.body.sha256 != body.sha256:
        log(EventType.PACKAGE_REPLACED, sha256=body.sha256, size=body.size, before=old.body.sha256)
    elif _described(old.body) != _described(body):
        log(EventType.PACKAGE_CHANGED, before=_described(old.body), after=_described(body))
    if lost_to_another(old, body) and old is not None:
        log(EventType.PACKAGE_SUPERSEDED, SYSTEM, sha256=body.sha256, kept=old.held_sha256)
    if decision.action is Action.ADOPT and not actor:
        log(EventType.PACKAGE_ARRIVED, SYSTEM, sha256=body.sha256, size=body.size)
    if decision.action is Action.RELEASE and not view.withdrawn and old is not None and old.held_sha256:
        log(EventType.PACKAGE_RELEASED, SYSTEM, sha256=old.held_sha256, reason=view.reason)
    return found


def _described(body: PackageBody) -> dict[str, object]:
    return {
        "filename": body.filename,
        "stage": body.stage,
        "tags": list(body.tags),
        "notes": body.notes,
        "metadata": body.metadata,
    }
