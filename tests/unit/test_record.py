"""Which of two records wins."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.names import package_id
from appliance.domain.record import (
    AHEAD_MS,
    FAR_MS,
    MAX_NUMBER,
    Record,
    RecordKind,
    next_revision,
    oddity,
    replica_id,
)


def record(revision: int = 1, author: str = "a", at: int = 1, signature: str = "s", **more: object) -> Record:
    fields: dict[str, object] = {
        "kind": RecordKind.PACKAGE,
        "id": "p",
        "key": "k",
        "deleted": False,
        "body": {},
    }
    return Record(revision=revision, author=author, at=at, signature=signature, **{**fields, **more})  # type: ignore[arg-type]


records = st.builds(
    record,
    st.integers(1, 3),
    st.sampled_from("ab"),
    st.integers(1, 3),
    st.sampled_from("stu"),
    deleted=st.booleans(),
)


def test_everything_outranks_nothing() -> None:
    assert record().outranks(None)


def test_the_revision_comes_first_then_the_author_then_the_time_then_the_signature() -> None:
    assert record(2, "a", 1, "a").outranks(record(1, "z", 9, "z"))
    assert record(1, "b", 1, "a").outranks(record(1, "a", 9, "z"))
    assert record(1, "a", 2, "a").outranks(record(1, "a", 1, "z"))
    assert record(1, "a", 1, "b").outranks(record(1, "a", 1, "a"))


def test_revisions_are_numbers_not_text() -> None:
    assert record(10).outranks(record(9))


def test_a_tombstone_has_no_privilege() -> None:
    assert record(2).outranks(record(1, deleted=True))
    assert record(2, deleted=True).outranks(record(1))


@given(records, records)
def test_of_two_exactly_one_wins_unless_they_are_the_same(one: Record, other: Record) -> None:
    assert not one.outranks(one)
    assert one.outranks(other) + other.outranks(one) == (one.rank != other.rank)


@given(records, records, records)
def test_winning_is_transitive(a: Record, b: Record, c: Record) -> None:
    if a.outranks(b) and b.outranks(c):
        assert a.outranks(c)


@given(st.lists(records, min_size=1), st.randoms())
def test_every_order_of_arrival_ends_alike(arrived: list[Record], chance: object) -> None:
    def last(order: list[Record]) -> Record:
        newest: Record | None = None
        for item in order:
            if item.outranks(newest):
                newest = item
        assert newest is not None
        return newest

    shuffled = list(arrived)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert last(arrived).rank == last(shuffled).rank


NOW = 1_800_000_000_000
AHEAD = NOW + AHEAD_MS + 1


@pytest.mark.parametrize(
    ("known", "trusted", "expected"),
    [
        (None, False, NOW),
        (record(5), False, NOW),
        (record(NOW - 1), False, NOW),
        (record(NOW), False, NOW + 1),
        (record(NOW + AHEAD_MS), True, NOW + AHEAD_MS + 1),
        (record(AHEAD), False, AHEAD + 1),
        (record(AHEAD), True, NOW),
        (record(5, at=AHEAD), True, NOW),
        (record(5, at=AHEAD), False, NOW),
        (record(MAX_NUMBER), False, NOW),
        (record(NOW, at=MAX_NUMBER), False, NOW),
    ],
    ids=[
        "nothing known", "an earlier version's", "older", "this millisecond", "an hour ahead",
        "our clock may be behind",
        "our clock is right", "time ahead", "time ahead, perhaps", "no time at all", "no time at all, as time",
    ],
)  # fmt: skip
def test_the_next_revision(known: Record | None, trusted: bool, expected: int) -> None:
    assert next_revision(known, NOW, trusted=trusted) == expected


def test_any_record_outranks_one_that_is_too_far_ahead() -> None:
    assert record(5).outranks(record(MAX_NUMBER), NOW)
    assert record(5).outranks(record(9, at=AHEAD), NOW)
    assert not record(5).outranks(record(NOW + AHEAD_MS), NOW)
    assert not record(AHEAD).outranks(record(AHEAD + 1), NOW), "both are ahead"
    assert not record(5).outranks(record(MAX_NUMBER)), "who does not know the time compares ranks"


@pytest.mark.parametrize(
    ("revision", "replaced", "wins"),
    [
        (6, (5,), True),
        (5, (5,), False),
        (4, (5,), False),
        (6, (AHEAD + 7, 5), True),
        (5, (AHEAD + 7, 5), False),
        (6, (AHEAD + 7, AHEAD + 6), False),
    ],
    ids=["newer", "the replaced one", "older", "newer than all that had a time", "so too", "none had a time"],
)
def test_what_a_record_that_is_ahead_replaced_does_not_replace_it(
    revision: int, replaced: tuple[int, ...], wins: bool
) -> None:
    assert record(revision).outranks(record(AHEAD + 9), NOW, replaced) is wins
    assert record(NOW + 9).outranks(record(NOW + 8), NOW, (AHEAD,)), "it is not ahead: ranks decide"


@given(st.integers(1, MAX_NUMBER), st.integers(0, MAX_NUMBER), st.integers(0, 2**42), st.booleans())
def test_no_revision_ever_leaves_the_numbers(revision: int, at: int, now: int, trusted: bool) -> None:
    found = next_revision(record(revision, at=at), now, trusted=trusted)
    assert found <= MAX_NUMBER
    if not trusted and revision <= now + FAR_MS >= at:
        assert found > revision, "nothing that we wrote is lost while our clock is behind"


@pytest.mark.parametrize(
    "value", [{"a": {"$ref": 1}}, [{"x\0": 1}], {"a": [b"x"]}, {"a": {5: 1}}, {"a": object()}], ids=range(5)
)
def test_what_no_database_gives_back_as_it_was(value: object) -> None:
    assert oddity(value)


def test_what_is_nothing_odd() -> None:
    assert oddity({"$schema": [1, 2.5, None, True, {"a.b": "x\0"}], "": ()}) is None


def test_ids() -> None:
    assert record().key_in_store == "package:p"
    assert record(kind=RecordKind.REPLICA, id=replica_id("p", "n")).key_in_store == "replica:p.n"
    package, dot, node = replica_id(package_id("A.b.pkg"), "n" * 52).partition(".")
    assert (package, dot, node) == (package_id("A.b.pkg"), ".", "n" * 52), "no id holds a dot"
