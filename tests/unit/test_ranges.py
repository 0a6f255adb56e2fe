"""Ranges and preconditions of downloads."""

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.api.ranges import Span, Unsatisfiable, not_modified, parse_range, range_applies


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-0", Span(0, 1)),
        ("bytes=2-4", Span(2, 3)),
        ("bytes=5-", Span(5, 5)),
        ("bytes=-3", Span(7, 3)),
        ("bytes=-100", Span(0, 10)),
        ("bytes=0-100", Span(0, 10)),
        (" bytes = 1 - 2 ", Span(1, 2)),
        (None, None),
        ("", None),
        ("bytes=", None),
        ("bytes=-", None),
        ("bytes=4-2", None),
        ("bytes=0-1,3-4", None),
        ("items=0-1", None),
        ("bytes=a-b", None),
        ("bytes=٣-", None),
    ],
)
def test_ranges_of_ten_bytes(header: str | None, span: Span | None) -> None:
    assert parse_range(header, 10) == span


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=10-", 10), ("bytes=11-12", 10), ("bytes=-0", 10), ("bytes=0-", 0)]
)
def test_behind_the_end(header: str, size: int) -> None:
    with pytest.raises(Unsatisfiable):
        parse_range(header, size)


@given(st.integers(1, 10**12), st.integers(0, 10**12), st.integers(0, 10**12))
def test_a_span_lies_in_the_file(size: int, first: int, last: int) -> None:
    try:
        span = parse_range(f"bytes={first}-{last}", size)
    except Unsatisfiable:
        assert first >= size
        return
    if span is None:
        assert last < first
    else:
        assert span.first == first
        assert span.length == min(last, size - 1) - first + 1 > 0


@given(st.text(max_size=40))
def test_no_header_breaks_it(header: str) -> None:
    try:
        span = parse_range(header, 100)
    except Unsatisfiable:
        return
    assert span is None or (span.length > 0 and span.first + span.length <= 100)


def test_if_range() -> None:
    assert range_applies(None, '"a"', 5)
    assert range_applies('"a"', '"a"', 5)
    assert not range_applies('"b"', '"a"', 5)
    assert not range_applies('W/"a"', '"a"', 5)
    assert range_applies(formatdate(5, usegmt=True), '"a"', 5)
    assert not range_applies(formatdate(4, usegmt=True), '"a"', 5)
    assert not range_applies("nonsense", '"a"', 5)


def test_not_modified() -> None:
    assert not_modified('"a"', None, '"a"', 5)
    assert not_modified('"b", W/"a"', None, '"a"', 5)
    assert not_modified("*", None, '"a"', 5)
    assert not not_modified('"b"', formatdate(9, usegmt=True), '"a"', 5)
    assert not_modified(None, formatdate(5, usegmt=True), '"a"', 5)
    assert not not_modified(None, formatdate(4, usegmt=True), '"a"', 5)
    assert not not_modified(None, "nonsense", '"a"', 5)
