"""Invites."""

import asyncio
import base64
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.errors import InvalidInput
from appliance.peering.identity import Identity
from appliance.peering.invite import (
    PREFIX,
    SECRET_BYTES,
    Invite,
    answer_mac,
    new_secret,
    parse_invite,
    registration_mac,
    same_mac,
)
from appliance.service.registration import Registrations
from appliance.store.opening import open_store

KEY = Identity.generate()
INVITE = Invite(
    id="0123456789abcdef",
    url="https://ods.example.com:8443/base",
    key=KEY.public_key,
    tls_fingerprint="ab" * 32,
    secret=new_secret(),
    expires_at=1_800_000_000_000,
)


def test_the_text_says_all() -> None:
    assert parse_invite(INVITE.text()) == INVITE
    assert INVITE.node == KEY.node_id


@pytest.mark.parametrize("pad", [" {}", "{}\n", "\t{}\r\n"])
def test_space_around_it_does_no_harm(pad: str) -> None:
    assert parse_invite(pad.format(INVITE.text())) == INVITE


def test_a_line_that_was_wrapped_in_a_mail_is_still_whole() -> None:
    text = INVITE.text()
    assert parse_invite(f"{text[:70]}\n{text[70:140]}\r\n  {text[140:]}") == INVITE


@given(st.integers(0, 400))
def test_what_is_cut_off_is_refused(length: int) -> None:
    text = INVITE.text()
    if length < len(text):
        with pytest.raises(InvalidInput):
            parse_invite(text[:length])


@given(st.text(max_size=100))
def test_nonsense_is_refused(text: str) -> None:
    for item in (text, PREFIX + text):
        with pytest.raises(InvalidInput):
            parse_invite(item)


def written(**changes: object) -> str:
    data = json.loads(base64.urlsafe_b64decode(INVITE.text().removeprefix(PREFIX) + "=="))
    data.update(changes)
    return PREFIX + base64.urlsafe_b64encode(json.dumps(data).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "changes",
    [
        {"u": "file:///etc/passwd"},
        {"u": "https://"},
        {"u": "https://x:99999"},
        {"u": "http://x/?q=1"},
        {"u": None},
        {"k": "AAAA"},
        {"k": 5},
        {"k": None},
        {"s": "AAAA"},
        {"s": ["x"]},
        {"s": "ä" * 27},
        {"e": "soon"},
        {"e": None},
        {"e": [1]},
        {"e": 1e999},
    ],
    ids=str,
)
def test_wrong_fields_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        parse_invite(written(**changes))


@pytest.mark.parametrize("content", ["[]", "null", "5", '"x"', "{}", "[" * 1500])
def test_json_that_is_no_invite(content: str) -> None:
    with pytest.raises(InvalidInput):
        parse_invite(PREFIX + base64.urlsafe_b64encode(content.encode()).decode())


def test_a_huge_text_is_refused_at_once() -> None:
    with pytest.raises(InvalidInput):
        parse_invite(PREFIX + "A" * 10_000_000)


def test_secrets_are_fresh() -> None:
    assert len({new_secret() for _ in range(10)}) == 10
    assert len(new_secret()) == SECRET_BYTES == 20


def test_the_proofs_depend_on_everything_and_on_the_side() -> None:
    record = {"kind": "node", "body": {"name": "b", "n": [1, 2]}}
    base = registration_mac(INVITE.secret, INVITE.id, record, "n" * 16)
    others = [
        answer_mac(INVITE.secret, INVITE.id, record, "n" * 16),
        registration_mac(replace(INVITE, secret=bytes(20)).secret, INVITE.id, record, "n" * 16),
        registration_mac(INVITE.secret, "other", record, "n" * 16),
        registration_mac(INVITE.secret, INVITE.id, {**record, "kind": "x"}, "n" * 16),
        registration_mac(INVITE.secret, INVITE.id, record, "m" * 16),
    ]
    assert len({base, *others}) == 6
    assert same_mac(
        base, registration_mac(INVITE.secret, INVITE.id, dict(reversed(record.items())), "n" * 16)
    )
    assert not same_mac(base, others[0])
    assert not same_mac(base, "ä")


def test_all_invites_that_stand_are_listed(tmp_path: Path) -> None:
    async def test() -> None:
        store = await open_store("", tmp_path)
        try:
            for number in range(601):
                await store.insert("invites", {"_id": f"{number}", "expires_at": 10, "secret": "s"})
            listed = await Registrations.invites(cast(Any, SimpleNamespace(_store=store, _now=lambda: 9)))
        finally:
            await store.close()
        assert len(listed) == 601
        assert not any("secret" in doc for doc in listed)

    asyncio.run(test())
