"""Fingerprints and digests of sets of records."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.fingerprint import (
    BUCKETS,
    DIGEST_BYTES,
    LOW_BITS,
    Digest,
    bucket_of_key,
    bucket_range,
    fingerprint,
    pack_bucket,
    unpack_bucket,
)

Sums = dict[int, tuple[int, int]]


def sums_of(prints: set[int]) -> Sums:
    found: Sums = {}
    for value in prints:
        count, total = found.get(value >> LOW_BITS, (0, 0))
        found[value >> LOW_BITS] = (count + 1, total + value % (1 << LOW_BITS))
    return found


def test_every_revision_of_a_record_is_in_one_bucket_and_has_a_fingerprint_of_its_own() -> None:
    prints = {fingerprint("package:x", f"signature {number}") for number in range(2000)}
    assert len(prints) == 2000
    first, end = bucket_range(bucket_of_key("package:x"))
    assert all(first <= value < end for value in prints)
    assert end <= BUCKETS << LOW_BITS <= 2**52, "MongoDB divides it as a float"


def test_records_spread_over_all_buckets() -> None:
    counts = sums_of({fingerprint(f"replica:{number}", "s") for number in range(100_000)})
    assert len(counts) == BUCKETS
    assert max(count for count, _ in counts.values()) < 60


def test_a_key_that_is_no_text_has_one_too() -> None:
    assert fingerprint("package:\ud800", "\udfff") >= 0


@given(st.sets(st.integers(0, 300)), st.sets(st.integers(0, 300)))
def test_digests_differ_where_sets_differ(one: set[int], two: set[int]) -> None:
    prints = [random.Random(number).getrandbits(52) for number in range(301)]
    mine, theirs = ({prints[number] for number in each} for each in (one, two))
    a, b = Digest.of(sums_of(mine)), Digest.of(sums_of(theirs))
    assert (a.root == b.root) == (mine == theirs)
    assert a.differing(b) == b.differing(a) == sorted({value >> LOW_BITS for value in mine ^ theirs})
    assert len(a.buckets) == DIGEST_BYTES


def test_an_overfull_bucket_is_no_failure() -> None:
    most = (1 << LOW_BITS) - 1
    count = 2**23
    full, one_less = (Digest.of({7: (each, each * most)}) for each in (count, count - 1))
    assert full.differing(one_less) == [7]


@given(st.sets(st.integers(0, 2**40 - 1), max_size=50), st.integers(0, BUCKETS - 1))
def test_packing_a_bucket(lows: set[int], bucket: int) -> None:
    prints = {bucket << LOW_BITS | low for low in lows}
    packed = pack_bucket(sorted(prints))
    assert len(packed) == 5 * len(prints)
    assert unpack_bucket(bucket, packed) == prints


def test_a_cut_list_is_refused() -> None:
    with pytest.raises(ValueError, match="cut off"):
        unpack_bucket(1, b"12345678")
