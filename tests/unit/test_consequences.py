"""What follows from a decision."""

from dataclasses import replace

import pytest

from appliance.domain.event import EventType
from appliance.domain.holding import Action, Decision
from appliance.domain.package import Package, PackageBody, Presence
from appliance.domain.record import Record, RecordKind
from appliance.service.consequences import events_of, lost_to_another, view_of
from tests.builders import package_body

OLD, NEW = package_body(data=b"old"), package_body(data=b"new")


def record(revision: int = 2, *, deleted: bool = False) -> Record:
    return Record(
        kind=RecordKind.PACKAGE,
        id="p",
        revision=revision,
        author="n" * 52,
        key="",
        at=7,
        deleted=deleted,
        body={},
        signature="",
    )


def decision(action: Action, presence: Presence = Presence.HELD) -> Decision:
    return Decision(action=action, presence=presence, reason="because")


def held(body: PackageBody = OLD, **changes: object) -> Package:
    fields: dict[str, object] = {
        "id": "p",
        "revision": 1,
        "author": "n" * 52,
        "at": 5,
        "withdrawn": False,
        "body": body,
        "presence": Presence.HELD,
        "held_sha256": body.sha256,
        "held_filename": body.filename,
    }
    return Package(**{**fields, **changes})  # type: ignore[arg-type]


def told(old: Package | None, view: Package, made: Decision, actor: str = "") -> dict[str, dict[str, object]]:
    entries = events_of(old, view, made, actor=actor, at=9)
    assert all(entry.collection == "events" and entry.doc["at"] == 9 for entry in entries)
    return {entry.doc["type"]: entry.doc for entry in entries}


def test_keeping_and_adopting_serve_the_new_bytes() -> None:
    for action in (Action.KEEP, Action.ADOPT):
        view = view_of(record(), NEW, held(), decision(action), at=7)
        assert (view.held_sha256, view.held_filename) == (NEW.sha256, NEW.filename)


def test_while_a_replacement_arrives_the_old_file_is_served() -> None:
    view = view_of(record(), NEW, held(), decision(Action.FETCH, Presence.ARRIVING), at=7)
    assert view.body == NEW
    assert (view.held_sha256, view.held_filename) == (OLD.sha256, OLD.filename)
    assert (view.revision, view.at, view.presence, view.reason) == (2, 7, Presence.ARRIVING, "because")


def test_nothing_is_served_after_a_release_and_of_what_never_was_here() -> None:
    view = view_of(record(deleted=True), OLD, held(), decision(Action.RELEASE, Presence.WITHDRAWN), at=7)
    assert (view.held_sha256, view.held_filename, view.withdrawn) == ("", "", True)
    view = view_of(record(), OLD, None, decision(Action.NOTHING, Presence.WAITING), at=7)
    assert (view.held_sha256, view.held_filename) == ("", "")


@pytest.mark.parametrize(
    ("old", "body", "lost"),
    [
        (None, NEW, False),
        (held(), OLD, False),
        (held(), NEW, True),
        (held(), replace(NEW, replaces=(OLD.sha256,)), False),
        (held(), replace(NEW, replaces=("x", OLD.sha256, "y")), False),
        (held(withdrawn=True), NEW, False),
        (held(held_sha256="", held_filename=""), NEW, False),
    ],
    ids=["new", "same", "stranger", "successor", "late successor", "withdrawn", "not held"],
)
def test_a_file_is_lost_only_to_one_whose_author_never_saw_it(
    old: Package | None, body: PackageBody, lost: bool
) -> None:
    assert lost_to_another(old, body) is lost


def test_a_package_put_in_here() -> None:
    made = decision(Action.ADOPT)
    events = told(None, view_of(record(), NEW, None, made, at=7), made, actor="jo")
    assert list(events) == [EventType.PACKAGE_PUBLISHED]
    event = events[EventType.PACKAGE_PUBLISHED]
    assert (event["actor"], event["subject"]) == ("jo", "p")
    assert event["data"] == {"filename": NEW.filename, "sha256": NEW.sha256, "size": 3, "stage": "prod"}


def test_a_package_heard_of_and_later_here() -> None:
    heard = decision(Action.FETCH, Presence.ARRIVING)
    view = view_of(record(), NEW, None, heard, at=7)
    assert told(None, view, heard)[EventType.PACKAGE_PUBLISHED]["actor"] == f"node:{'n' * 52}"
    here = decision(Action.ADOPT)
    events = told(view, view_of(record(), NEW, view, here, at=7), here)
    assert list(events) == [EventType.PACKAGE_ARRIVED]


def test_a_replacement() -> None:
    made = decision(Action.ADOPT)
    body = replace(NEW, replaces=(OLD.sha256,))
    events = told(held(), view_of(record(), body, held(), made, at=7), made, actor="jo")
    assert list(events) == [EventType.PACKAGE_REPLACED]
    data = events[EventType.PACKAGE_REPLACED]["data"]
    assert isinstance(data, dict)
    assert (data["before"], data["sha256"]) == (OLD.sha256, NEW.sha256)


def test_a_conflict_says_what_was_kept() -> None:
    made = decision(Action.FETCH, Presence.ARRIVING)
    events = told(held(), view_of(record(), NEW, held(), made, at=7), made)
    assert set(events) == {EventType.PACKAGE_REPLACED, EventType.PACKAGE_SUPERSEDED}
    data = events[EventType.PACKAGE_SUPERSEDED]["data"]
    assert isinstance(data, dict)
    assert data["kept"] == OLD.sha256


@pytest.mark.parametrize(
    "changes",
    [
        {"stage": "dev"},
        {"tags": ("a",)},
        {"notes": "n"},
        {"metadata": {"a": 1}},
        {"filename": "THING-1.0.pkg"},
    ],
    ids=str,
)
def test_a_change_says_what_changed(changes: dict[str, object]) -> None:
    made = decision(Action.KEEP)
    body = replace(OLD, **changes)  # type: ignore[arg-type]
    events = told(held(), view_of(record(), body, held(), made, at=7), made, actor="jo")
    assert list(events) == [EventType.PACKAGE_CHANGED]
    data = events[EventType.PACKAGE_CHANGED]["data"]
    assert isinstance(data, dict)
    assert data["before"] != data["after"]


def test_a_revision_that_changes_nothing_a_person_sees_is_no_event() -> None:
    made = decision(Action.KEEP)
    assert told(held(), view_of(record(), OLD, held(), made, at=7), made, actor="jo") == {}


def test_withdrawal_is_told_once() -> None:
    made = decision(Action.RELEASE, Presence.WITHDRAWN)
    view = view_of(record(deleted=True), OLD, held(), made, at=7)
    assert list(told(held(), view, made, actor="jo")) == [EventType.PACKAGE_WITHDRAWN]
    assert told(view, view_of(record(3, deleted=True), OLD, view, made, at=7), made) == {}
    assert told(None, view, made) == {}, "a package that was never seen alive"


def test_coming_back_after_a_withdrawal_is_a_publication() -> None:
    made = decision(Action.ADOPT)
    before = held(withdrawn=True, held_sha256="", held_filename="", presence=Presence.WITHDRAWN)
    assert list(told(before, view_of(record(3), OLD, before, made, at=7), made, actor="jo")) == [
        EventType.PACKAGE_PUBLISHED
    ]


def test_release_after_a_demotion() -> None:
    made = decision(Action.RELEASE, Presence.NOT_ADMITTED)
    body = replace(OLD, stage="dev")
    events = told(held(), view_of(record(), body, held(), made, at=7), made)
    assert set(events) == {EventType.PACKAGE_CHANGED, EventType.PACKAGE_RELEASED}
    data = events[EventType.PACKAGE_RELEASED]["data"]
    assert isinstance(data, dict)
    assert (data["sha256"], data["reason"]) == (OLD.sha256, "because")
