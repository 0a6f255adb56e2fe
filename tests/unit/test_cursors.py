"""Cursors of lists."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.api.cursors import after, decode, encode
from appliance.domain.errors import InvalidInput


@given(st.text(max_size=50), st.text(max_size=40))
def test_a_cursor_leads_back_to_its_place(value: str, id: str) -> None:
    cursor = encode([value, id])
    assert decode(cursor, str) == [value, id]
    assert cursor.isascii()
    assert not set(cursor) & set("+/=&#% ")


@given(st.integers(-(2**53) + 1, 2**53 - 1), st.text(max_size=40))
def test_numbers_too(value: int, id: str) -> None:
    assert after(encode([value, id])) == (value, id)


def test_a_place_in_a_list_of_another_order_is_refused() -> None:
    for place, kind in (
        (["a", "x"], int),
        ([1, "x"], str),
        ([True, "x"], int),
        ([1.0, "x"], int),
        ([1, 1], int),
    ):
        with pytest.raises(InvalidInput):
            decode(encode(place), kind)


@given(st.text(max_size=60))
def test_what_is_none_of_ours_is_refused_and_never_an_error_of_another_kind(text: str) -> None:
    for kind in (str, int):
        try:
            place = decode(text, kind)
        except InvalidInput:
            continue
        assert len(place) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"[1]",
        b"[1,2,3]",
        b"[[],1]",
        b"[null,1]",
        b'{"a":1}',
        b"nonsense",
        b"\xff\xfe",
        b"[1,",
        b'[%d,"x"]' % 2**70,
        b'["\\ud800","x"]',
        b"[" * 60_000,
    ],
    ids=range(14),
)
def test_wrong_contents(content: bytes) -> None:
    for kind in (str, int):
        with pytest.raises(InvalidInput, match="cursor"):
            decode(base64.urlsafe_b64encode(content).decode().rstrip("="), kind)


def test_no_cursor_is_the_first_page() -> None:
    assert after("") is None
