"""When a failed job is tried again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain import errors
from appliance.domain.job import Job, RetryPolicy, decide_retry
from appliance.domain.states import JobState
from appliance.jobs.run import describe, outcome_of
from appliance.store.ports import Retry

POLICY = RetryPolicy(attempts=5, base_s=2.0, cap_s=60.0)


def middle() -> float:
    """No jitter: in the middle of its range."""
    return 0.5


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 2.0), (2, 4.0), (3, 8.0), (4, 16.0)])
def test_waits_double(attempt: int, seconds: float) -> None:
    assert decide_retry(errors.PeerUnreachable(), attempt, POLICY, middle) == seconds


def test_it_gives_up_after_the_last_attempt() -> None:
    assert decide_retry(errors.PeerUnreachable(), 5, POLICY, middle) is None
    assert decide_retry(errors.PeerUnreachable(), 6, POLICY, middle) is None


@given(st.integers(1, 10_000), st.floats(0, 1), st.floats(0.1, 10), st.floats(10, 1000))
def test_waits_are_capped_and_spread(attempt: int, jitter: float, base: float, cap: float) -> None:
    policy = RetryPolicy(attempts=10_001, base_s=base, cap_s=cap)
    wait = policy.wait(attempt, lambda: jitter)
    assert 0.75 * min(cap, base) <= wait <= 1.25 * cap
    assert policy.wait(attempt, lambda: 0.0) <= wait <= policy.wait(attempt, lambda: 1.0)
    assert policy.wait(attempt + 1, middle) >= policy.wait(attempt, middle)


def test_what_cannot_succeed_is_not_tried_again() -> None:
    for error in (
        errors.PeerRefused(),
        errors.DigestMismatch(),
        errors.InvalidName(),
        errors.PackageWithdrawn(),
    ):
        assert decide_retry(error, 1, POLICY, middle) is None


def test_what_says_when_is_tried_then() -> None:
    assert decide_retry(errors.PeerBusy(retry_after=7), 1, POLICY, middle) == 7.0
    assert decide_retry(errors.PeerBusy(retry_after=0.5), 4, POLICY, middle) == 0.5
    assert decide_retry(errors.PeerBusy(retry_after="soon"), 1, POLICY, middle) == 2.0
    assert decide_retry(errors.PeerBusy(retry_after=7), 5, POLICY, middle) is None
    assert decide_retry(errors.PeerRefused(retry_after=7), 1, POLICY, middle) is None


@pytest.mark.parametrize(
    ("kept", "seconds"), [(-9e9, 2.0), (0.0, 2.0), (1.0, 2.0), (7.0, 7.0), (60.0, 60.0), (1e6, 60.0)]
)
def test_an_outage_is_waited_out_as_long_as_it_has_lasted(kept: float, seconds: float) -> None:
    assert POLICY.wait_out(kept, middle) == seconds
    assert POLICY.wait_out(kept, lambda: 1.0) == 1.25 * seconds


@pytest.mark.parametrize("attempt", [1, 2, 5, 500])
@pytest.mark.parametrize("outage", [errors.StorageFull(), errors.StoreUnavailable()])
@pytest.mark.parametrize("wrapped", [False, True])
def test_an_outage_never_costs_an_attempt(attempt: int, outage: errors.ApplianceError, wrapped: bool) -> None:
    error = outage
    if wrapped:
        error = errors.NotSettled()
        error.__cause__ = outage
    job = Job(id="1", queue="hash", name="x", attempts=attempt, created_at=10_000)
    outcome = outcome_of(error, job, POLICY, now=20_000, jitter=middle)
    assert outcome == Retry(run_at=30_000, error=describe(error), count=False)


def test_what_no_outage_caused_costs_an_attempt() -> None:
    error = errors.NotSettled()
    error.__cause__ = errors.BlobMissing()
    job = Job(id="1", queue="hash", name="x", attempts=1)
    assert outcome_of(error, job, POLICY, now=0, jitter=middle) == Retry(run_at=2000, error=describe(error))


def test_a_bug_is_tried_a_few_times() -> None:
    assert decide_retry(KeyError("x"), 1, POLICY, middle) == 2.0
    assert decide_retry(KeyError("x"), 5, POLICY, middle) is None


def test_a_new_job_waits_for_a_worker() -> None:
    job = Job(id="1", queue="hash", name="package.verify")
    assert (job.state, job.attempts, job.token, job.again) == (JobState.TODO, 0, 0, False)


def all_errors(cls: type[errors.ApplianceError] = errors.ApplianceError) -> list[type[errors.ApplianceError]]:
    """The whole tree."""
    return [cls, *(below for child in cls.__subclasses__() for below in all_errors(child))]


@pytest.mark.parametrize("cls", [cls for cls in all_errors() if cls.__module__ == errors.__name__])
def test_every_error_has_a_code_of_its_own_and_a_sentence(cls: type[errors.ApplianceError]) -> None:
    assert "code" in vars(cls)
    assert [other.code for other in all_errors() if other.__module__ == errors.__name__].count(cls.code) == 1
    assert cls().message.endswith(".")
    assert cls("Own words.", a=1).message == "Own words."
    assert cls.__name__ in (errors.__doc__ or "")
