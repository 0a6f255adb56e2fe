"""The decision about a package's bytes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.holding import Action, Situation, decide
from appliance.domain.node import Admission
from appliance.domain.package import Presence

YES = Admission(admitted=True, reason="a prod package goes to this prod node")
NO = Admission(admitted=False, reason="this node refuses the tag lab")

NEW = Situation(
    withdrawn=False,
    admission=YES,
    held_current=False,
    held_old=False,
    on_disk=False,
    damaged=False,
    cancelled=False,
    sources=["north"],
    out_of_reach=[],
    safe_elsewhere=True,
    proven_elsewhere=True,
)


@pytest.mark.parametrize(
    ("situation", "action", "presence"),
    [
        (NEW, Action.FETCH, Presence.ARRIVING),
        (replace(NEW, held_old=True), Action.FETCH, Presence.ARRIVING),
        (replace(NEW, held_current=True), Action.KEEP, Presence.HELD),
        (replace(NEW, on_disk=True), Action.ADOPT, Presence.HELD),
        (replace(NEW, sources=[], out_of_reach=["south"]), Action.NOTHING, Presence.WAITING),
        (replace(NEW, cancelled=True), Action.NOTHING, Presence.WAITING),
        (replace(NEW, sources=[], damaged=True), Action.NOTHING, Presence.DAMAGED),
        (replace(NEW, damaged=True), Action.FETCH, Presence.ARRIVING),
        (replace(NEW, sources=[], damaged=True, cancelled=True), Action.NOTHING, Presence.DAMAGED),
        (replace(NEW, sources=[], damaged=True, withdrawn=True), Action.NOTHING, Presence.WITHDRAWN),
        (
            replace(NEW, admission=NO, sources=[], damaged=True, safe_elsewhere=False),
            Action.NOTHING,
            Presence.DAMAGED,
        ),
        (replace(NEW, admission=NO, damaged=True, safe_elsewhere=False), Action.FETCH, Presence.ARRIVING),
        (replace(NEW, admission=NO, damaged=True), Action.NOTHING, Presence.NOT_ADMITTED),
        (replace(NEW, withdrawn=True), Action.NOTHING, Presence.WITHDRAWN),
        (replace(NEW, withdrawn=True, held_current=True), Action.RELEASE, Presence.WITHDRAWN),
        (replace(NEW, admission=NO), Action.NOTHING, Presence.NOT_ADMITTED),
        (replace(NEW, admission=NO, held_current=True), Action.RELEASE, Presence.NOT_ADMITTED),
        (replace(NEW, admission=NO, held_old=True), Action.RELEASE, Presence.NOT_ADMITTED),
        (replace(NEW, admission=NO, held_current=True, safe_elsewhere=False), Action.KEEP, Presence.HELD),
        (replace(NEW, admission=NO, on_disk=True, safe_elsewhere=False), Action.ADOPT, Presence.HELD),
        (replace(NEW, admission=NO, held_current=True, proven_elsewhere=False), Action.KEEP, Presence.HELD),
        (replace(NEW, admission=NO, on_disk=True, proven_elsewhere=False), Action.ADOPT, Presence.HELD),
        (replace(NEW, admission=NO, on_disk=True), Action.RELEASE, Presence.NOT_ADMITTED),
        (
            replace(NEW, admission=NO, on_disk=True, shared=True, proven_elsewhere=False),
            Action.NOTHING,
            Presence.NOT_ADMITTED,
        ),
        (replace(NEW, admission=NO, damaged=True, proven_elsewhere=False), Action.FETCH, Presence.ARRIVING),
        (
            replace(NEW, admission=NO, damaged=True, sources=[], proven_elsewhere=False),
            Action.NOTHING,
            Presence.DAMAGED,
        ),
        (
            replace(NEW, admission=NO, damaged=True, given_up=True, proven_elsewhere=False),
            Action.NOTHING,
            Presence.NOT_ADMITTED,
        ),
        (
            replace(NEW, admission=NO, held_old=True, proven_elsewhere=False),
            Action.RELEASE,
            Presence.NOT_ADMITTED,
        ),
        (
            replace(NEW, withdrawn=True, held_current=True, proven_elsewhere=False),
            Action.RELEASE,
            Presence.WITHDRAWN,
        ),
    ],
)
def test_each_situation(situation: Situation, action: Action, presence: Presence) -> None:
    decision = decide(situation)
    assert (decision.action, decision.presence) == (action, presence)
    assert decision.reason


def test_waiting_names_who_holds_it() -> None:
    decision = decide(replace(NEW, sources=[], out_of_reach=["south", "east", "west", "hub"]))
    assert "south, east, west and 1 more" in decision.reason


def test_what_is_damaged_says_what_to_do() -> None:
    here = decide(replace(NEW, admission=NO, sources=[], damaged=True, safe_elsewhere=False))
    assert here.reason == (
        "the file here is damaged or missing; no node is known to hold it. Upload the same file again to repair it"
    )
    there = decide(replace(NEW, sources=[], damaged_at=["Berlin"]))
    assert there.presence is Presence.WAITING
    assert there.reason == (
        "no node is known to hold it; the file on Berlin is damaged. Upload the same file again to repair it"
    )


situations = st.builds(
    Situation,
    withdrawn=st.booleans(),
    admission=st.sampled_from([YES, NO]),
    held_current=st.booleans(),
    held_old=st.booleans(),
    on_disk=st.booleans(),
    shared=st.booleans(),
    damaged=st.booleans(),
    given_up=st.booleans(),
    cancelled=st.booleans(),
    sources=st.lists(st.just("north"), max_size=1),
    out_of_reach=st.lists(st.just("south"), max_size=1),
    safe_elsewhere=st.booleans(),
    proven_elsewhere=st.booleans(),
    keeper_names=st.just(["north"]),
    asking=st.booleans(),
)


@given(situations)
def test_the_last_copy_is_never_released_but_by_withdrawal(situation: Situation) -> None:
    decision = decide(situation)
    if decision.action is Action.RELEASE and not situation.withdrawn:
        assert situation.safe_elsewhere or not (situation.held_current or situation.on_disk)
        assert situation.proven_elsewhere or not situation.held_current
        if not situation.held_old:  # then it is these bytes that go
            assert situation.proven_elsewhere


def test_a_copy_that_nobody_proved_to_have_is_asked_for_once_and_says_why_it_stays() -> None:
    first = replace(NEW, admission=NO, held_current=True, proven_elsewhere=False, keeper_names=["Berlin"])
    decision = decide(first)
    assert decision.prove
    assert (
        decision.reason
        == "this node refuses the tag lab; this copy is kept until Berlin proves that it has the file"
    )
    again = decide(replace(first, asking=True))
    assert (again.prove, again.reason) == (False, decision.reason)
    failed = decide(replace(first, asking=True, unproven="Berlin: It answered 503."))
    assert failed.reason == f"{decision.reason} (Berlin: It answered 503)"
    assert not decide(replace(first, proven_elsewhere=True)).prove


@given(situations)
def test_a_damaged_last_copy_is_never_hidden(situation: Situation) -> None:
    decision = decide(situation)
    here = situation.held_current or situation.on_disk
    admitted = situation.admission.admitted
    lost = situation.damaged and not here and not situation.sources
    unproven = not situation.safe_elsewhere or not (situation.proven_elsewhere or situation.given_up)
    if lost and not situation.withdrawn and (admitted or unproven):
        assert decision.presence is Presence.DAMAGED
        assert "Upload the same file again" in decision.reason


@given(situations)
def test_held_is_said_only_of_bytes_that_are_here(situation: Situation) -> None:
    decision = decide(situation)
    assert (decision.presence is Presence.HELD) == (decision.action in {Action.KEEP, Action.ADOPT})
    if decision.presence is Presence.HELD:
        assert situation.held_current or situation.on_disk
