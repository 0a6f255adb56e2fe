"""What becomes of a transfer: it always has a job, an end, or a reason with a time."""

import threading
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.holding import Action, Decision
from appliance.domain.job import Job
from appliance.domain.package import Package, Presence
from appliance.domain.states import JobState, TransferState
from appliance.service.fetch_jobs import (
    RESTART_MS,
    UNBEGUN_MS,
    fetch_job,
    follow,
    needs_job,
    new_transfer_doc,
    restarted_doc,
    retry_time,
)
from appliance.service.fetcher import Progress, Source
from appliance.service.transfers import Live, Transfers
from tests.builders import package_body

NOW = 1_700_000_000_000
VIEW = Package(
    id="p" * 32,
    revision=1,
    author="n",
    at=NOW,
    withdrawn=False,
    body=package_body(),
    presence=Presence.ARRIVING,
)
FETCH = Decision(action=Action.FETCH, presence=Presence.ARRIVING, reason="fetched from north")
WAIT = Decision(action=Action.NOTHING, presence=Presence.WAITING, reason="no node is known to hold it")
HELD = Decision(action=Action.ADOPT, presence=Presence.HELD, reason="here")
GONE = Decision(action=Action.NOTHING, presence=Presence.WITHDRAWN, reason="withdrawn")
AWAY = Decision(action=Action.RELEASE, presence=Presence.NOT_ADMITTED, reason="another stage")


def transfer(state: TransferState, **changes: Any) -> dict[str, Any]:
    return {**new_transfer_doc(VIEW, NOW), "state": str(state), **changes}


def job(state: JobState) -> Job:
    made = fetch_job(VIEW, NOW)
    return Job(id=made.id, queue=made.queue, name=made.name, args=made.args, key=made.key, state=state)


def step(
    decision: Decision, doc: dict[str, Any] | None, active: Job | None = None, **more: Any
) -> tuple[str, bool]:
    found = follow(decision, VIEW, doc, active, **{"at_once": False, "now": NOW, **more})
    return (found.transfer["state"] if found.transfer else "", found.enqueue)


S = TransferState


@pytest.mark.parametrize("state", [None, S.DONE, S.CANCELLED])
def test_what_is_wanted_and_has_no_open_transfer_gets_one(state: S | None) -> None:
    assert step(FETCH, transfer(state) if state else None) == ("pending", True)


@pytest.mark.parametrize("state", [S.PENDING, S.FETCHING, S.VERIFYING, S.STALLED])
def test_an_open_transfer_without_a_job_gets_one(state: S) -> None:
    found = follow(FETCH, VIEW, transfer(state, attempts=3), None, at_once=False, now=NOW)
    assert found.enqueue
    assert found.transfer is None or (found.transfer["state"], found.transfer["attempts"]) == ("pending", 3)


@pytest.mark.parametrize("state", [S.PENDING, S.FETCHING, S.VERIFYING, S.STALLED])
@pytest.mark.parametrize("active", [JobState.TODO, JobState.DOING])
def test_one_with_a_job_is_left_alone(state: S, active: JobState) -> None:
    assert step(FETCH, transfer(state), job(active)) == ("", False)


def test_one_that_a_worker_took_and_did_not_begin_is_looked_at_once_more() -> None:
    doc = transfer(S.PENDING, updated_at=NOW - UNBEGUN_MS - 1)
    assert step(FETCH, doc, job(JobState.DOING)) == ("", True)


def test_one_that_stopped_begins_again_when_a_source_is_back() -> None:
    assert step(FETCH, transfer(S.STALLED), job(JobState.TODO), at_once=True) == ("pending", True)
    assert step(FETCH, transfer(S.FAILED), at_once=True) == ("pending", True)


def test_one_that_failed_begins_again_after_an_hour() -> None:
    assert step(FETCH, transfer(S.FAILED)) == ("", False)
    assert step(FETCH, transfer(S.FAILED, updated_at=NOW - RESTART_MS - 1)) == ("pending", True)


@pytest.mark.parametrize("state", [S.STALLED, S.FAILED])
def test_one_that_stopped_while_the_clock_was_ahead_begins_again(state: S) -> None:
    ahead = NOW + 2 * RESTART_MS
    doc = transfer(state, updated_at=ahead, retry_at=ahead + RESTART_MS)
    assert step(FETCH, doc) == ("pending", True)
    assert step(FETCH, doc, at_once=True) == ("pending", True)
    assert step(FETCH, doc, now=ahead) == ("", False)
    found = transfer(S.PENDING, updated_at=ahead)
    assert step(FETCH, found, job(JobState.DOING)) == ("", True)


def test_one_that_begins_again_says_when_bytes_came_last() -> None:
    doc = transfer(S.FAILED, moved_at=NOW - 9, started_at=NOW - 99, updated_at=NOW - RESTART_MS - 1)
    found = follow(FETCH, VIEW, doc, None, at_once=False, now=NOW)
    assert found.transfer is not None
    assert [found.transfer[name] for name in ("moved_at", "started_at", "failed_at")] == [
        NOW - 9, NOW - 99, NOW - RESTART_MS - 1,
    ]  # fmt: skip
    person = restarted_doc(transfer(S.CANCELLED, moved_at=NOW - 9, started_at=NOW - 99), VIEW, NOW)
    assert (person["moved_at"], person["started_at"], person["failed_at"]) == (0, NOW, 0)


def test_what_was_verified_before_is_no_byte_that_comes() -> None:
    progress = Progress(bytes_done=5_000_000, sources=[Source(node="n", name="n", address=cast(Any, None))])
    live = Live(
        doc=transfer(S.FETCHING),
        package=VIEW,
        state=S.FETCHING,
        progress=progress,
        unwanted=threading.Event(),
    )
    transfers = Transfers(
        **dict.fromkeys(("store", "records", "catalogue", "holdings", "peers"), cast(Any, None)),
        node_id="n", now=lambda: NOW,
    )  # fmt: skip
    transfers._note_moved(live)
    assert live.doc["moved_at"] == 0
    progress.sources[0].bytes += 1
    transfers._note_moved(live)
    assert live.doc["moved_at"] == NOW


@pytest.mark.parametrize("state", [S.STALLED, S.FAILED])
def test_a_stated_time_is_kept_whatever_comes_back(state: S) -> None:
    doc = transfer(state, retry_at=NOW + 1)
    assert step(FETCH, doc, at_once=True) == ("", False)
    assert step(FETCH, doc, at_once=True, now=NOW + 1) == ("pending", True)


@pytest.mark.parametrize("state", [S.PENDING, S.FETCHING, S.VERIFYING, S.STALLED, S.FAILED])
def test_what_is_not_wanted_any_more_ends(state: S) -> None:
    assert step(HELD, transfer(state)) == ("done", False)
    assert step(GONE, transfer(state)) == ("cancelled", False)
    assert step(AWAY, transfer(state)) == ("cancelled", False)


def test_a_person_s_word_ends_with_what_it_was_about() -> None:
    doc = transfer(S.CANCELLED, cancelled_by="jo", error="cancelled by jo")
    found = follow(GONE, VIEW, doc, None, at_once=False, now=NOW)
    assert found.transfer is not None
    assert found.transfer["cancelled_by"] == ""
    assert step(GONE, found.transfer) == ("", False)


decisions = st.sampled_from([FETCH, WAIT, HELD, GONE, AWAY])
docs = st.none() | st.builds(
    transfer,
    st.sampled_from(TransferState),
    retry_at=st.sampled_from([0, NOW - 1, NOW + 1]),
    updated_at=st.sampled_from([NOW, NOW - RESTART_MS - 1]),
    cancelled_by=st.just(""),
)
jobs = st.none() | st.sampled_from([JobState.TODO, JobState.DOING]).map(job)


@given(decisions, docs, jobs, st.booleans())
def test_the_liveness_rule(
    decision: Decision, doc: dict[str, Any] | None, active: Job | None, at_once: bool
) -> None:
    """What is wanted has a job or a time; what is not wanted has no open transfer; looking twice changes nothing."""
    known = active if needs_job(decision, doc) else None
    found = follow(decision, VIEW, doc, known, at_once=at_once, now=NOW)
    after = found.transfer or doc
    if decision is FETCH:
        assert found.enqueue or active is not None or retry_time(after) > NOW
    elif decision is WAIT:
        assert after is None or after["state"] not in {"pending"}
        if active is None:
            assert after is None or after["state"] not in {"fetching", "verifying"}
    else:
        assert after is None or after["state"] in {"done", "cancelled"}
    then = active or (job(JobState.TODO) if found.enqueue else None)
    again = follow(
        decision, VIEW, after, then if needs_job(decision, after) else None, at_once=False, now=NOW
    )
    assert again.transfer is None
    if again.enqueue:  # one that a worker took and did not begin may be enqueued as often as one looks
        assert then is not None
        assert then.state is JobState.DOING
        assert after is not None
        assert after["updated_at"] < NOW - UNBEGUN_MS
