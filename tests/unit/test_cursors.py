"""Cursors of lists."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.api.cursors import after, decode, encode
from appliance.domain.errors import InvalidInput


@given(st.one_of(st.text(max_size=50), st.integers(-(2**53), 2**53)), st.text(max_size=40))
def test_a_cursor_leads_back_to_its_place(value: str | int, id: str) -> None:
    cursor = encode([value, id])
    assert decode(cursor) == [value, id]
    assert after(cursor) == (value, id)
    assert cursor.isascii()
    assert not set(cursor) & set("+/=&#% ")


@given(st.text(max_size=60))
def test_what_is_none_of_ours_is_refused_and_never_an_error_of_another_kind(text: str) -> None:
    try:
        place = decode(text)
    except InvalidInput:
        return
    assert len(place) == 2


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"[1]", b"[1,2,3]", b"[[],1]", b"[null,1]", b'{"a":1}', b"nonsense", b"\xff\xfe", b"[1,"],
)
def test_wrong_contents(content: bytes) -> None:
    with pytest.raises(InvalidInput, match="cursor"):
        decode(base64.urlsafe_b64encode(content).decode().rstrip("="))


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(InvalidInput):
        decode(base64.urlsafe_b64encode(b"[" * 60_000).decode().rstrip("="))


def test_no_cursor_is_the_first_page() -> None:
    assert after("") is None
