"""Which state of a transfer may follow which."""

import itertools

import pytest

from appliance.domain.errors import InvalidTransition
from appliance.domain.states import TRANSFER_STEPS, TransferState, advance

S = TransferState
ALLOWED = (
    {
        (S.PENDING, S.FETCHING),
        (S.PENDING, S.STALLED),
        (S.FETCHING, S.PENDING),
        (S.FETCHING, S.VERIFYING),
        (S.FETCHING, S.STALLED),
        (S.VERIFYING, S.PENDING),
        (S.VERIFYING, S.FETCHING),
        (S.VERIFYING, S.STALLED),
        (S.VERIFYING, S.DONE),
        (S.STALLED, S.PENDING),
        (S.STALLED, S.FETCHING),
        (S.FAILED, S.PENDING),
        (S.CANCELLED, S.PENDING),
    }
    | {(state, S.FAILED) for state in (S.PENDING, S.FETCHING, S.VERIFYING, S.STALLED)}
    | {(state, S.CANCELLED) for state in (S.PENDING, S.FETCHING, S.VERIFYING, S.STALLED, S.FAILED)}
)


@pytest.mark.parametrize(("current", "new"), list(itertools.product(S, S)))
def test_each_step_is_allowed_or_refused(current: S, new: S) -> None:
    if current is new or (current, new) in ALLOWED:
        assert advance(current, new) is new
        return
    with pytest.raises(InvalidTransition) as caught:
        advance(current, new)
    assert str(current) in caught.value.message
    assert str(new) in caught.value.message


def test_every_state_has_its_row_and_only_done_is_the_end() -> None:
    assert set(TRANSFER_STEPS) == set(S)
    assert [state for state, following in TRANSFER_STEPS.items() if not following] == [S.DONE]
    assert not any(state in following for state, following in TRANSFER_STEPS.items())


def test_a_file_is_never_done_without_having_been_verified() -> None:
    assert {state for state in S if S.DONE in TRANSFER_STEPS[state]} == {S.VERIFYING}


def test_every_transfer_can_still_be_done() -> None:
    reached = {S.DONE}
    while more := {state for state in S if TRANSFER_STEPS[state] & reached} - reached:
        reached |= more
    assert reached == set(S)
