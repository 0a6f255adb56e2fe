"""Signed requests between nodes."""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.errors import (
    ClockSkew,
    PeerUnknown,
    SignatureInvalid,
    SignatureMissing,
    SignatureRefused,
)
from appliance.peering.address import authority
from appliance.peering.identity import Identity, signature_holds
from appliance.peering.signing import AHEAD_S, LIFE_S, Message, Signed, sign_request, verify_request

NOW = 1_800_000_000_000
URL = "https://b.example:8443/peer/v1/changes?since=3&feed=x"
BODY = b'{"records":[]}'
alice, mallory = Identity.generate(), Identity.generate()


def signed(
    method: str = "POST", url: str = URL, body: bytes = BODY, at: int = NOW, by: Identity = alice
) -> Message:
    return Message(method, url, sign_request(by, method, url, body, now=lambda: at))


def verify(
    message: Message,
    body: bytes = BODY,
    *,
    own: str = "https://b.example:8443",
    key_for: Callable[[str], bytes | None] = {alice.node_id: alice.public_key}.get,
    at: int = NOW,
) -> Signed:
    return verify_request(message, body, authority=authority(own), key_for=key_for, now=lambda: at)


def test_a_signed_request_is_accepted() -> None:
    assert verify(signed()).node == alice.node_id


def test_every_request_has_its_own_nonce() -> None:
    assert verify(signed()).nonce != verify(signed()).nonce


def test_a_request_without_a_body_covers_its_digest_too() -> None:
    message = signed("GET", body=b"")
    assert verify(message, b"").node == alice.node_id
    with pytest.raises(SignatureInvalid):
        verify(message, b"something")


@pytest.mark.parametrize(
    "tampered",
    [
        replace(signed(), method="DELETE"),
        replace(signed(), url=URL.replace("since=3", "since=0")),
        replace(signed(), url=URL.replace("changes", "node")),
        replace(signed(), url=URL.partition("?")[0]),
    ],
    ids=["method", "query", "path", "no query"],
)
def test_what_is_covered_cannot_be_changed(tampered: Message) -> None:
    with pytest.raises(SignatureInvalid):
        verify(tampered)


def test_the_body_cannot_be_changed() -> None:
    with pytest.raises(SignatureInvalid):
        verify(signed(), BODY.replace(b"[]", b"[1]"))


def test_a_request_to_another_node_is_refused_even_with_the_right_host_header() -> None:
    with pytest.raises(SignatureInvalid):
        verify(signed(), own="https://c.example:8443")


@pytest.mark.parametrize("name", ["Signature", "Signature-Input", "Content-Digest"])
def test_no_part_may_be_missing(name: str) -> None:
    message = signed()
    del message.headers[name]
    with pytest.raises(SignatureRefused):
        verify(message)


@pytest.mark.parametrize(
    "component", ['"@method" ', '"@authority" ', '"@path" ', '"@query" ', ' "content-digest"']
)
def test_every_component_must_be_covered(component: str) -> None:
    message = signed()
    message.headers["Signature-Input"] = message.headers["Signature-Input"].replace(component, "", 1)
    with pytest.raises(SignatureInvalid):
        verify(message)


@pytest.mark.parametrize(("before", "after"), [("ods-peer-v1", "other"), ("ed25519", "hmac-sha256")])
def test_tag_and_algorithm_are_fixed(before: str, after: str) -> None:
    message = signed()
    message.headers["Signature-Input"] = message.headers["Signature-Input"].replace(before, after)
    with pytest.raises(SignatureRefused):
        verify(message)


def test_unsigned() -> None:
    with pytest.raises(SignatureMissing):
        verify(Message("POST", URL, {}))


def test_a_node_that_is_not_registered() -> None:
    with pytest.raises(PeerUnknown):
        verify(signed(by=mallory))


def test_another_nodes_id_does_not_help() -> None:
    with pytest.raises(SignatureInvalid):
        verify(signed(by=mallory), key_for={mallory.node_id: alice.public_key}.get)


@pytest.mark.parametrize("seconds", [-(LIFE_S - 1), -1, 0, AHEAD_S - 1])
def test_clocks_may_differ_a_little(seconds: int) -> None:
    assert verify(signed(at=NOW + seconds * 1000)).node == alice.node_id


@pytest.mark.parametrize("seconds", [-(LIFE_S + 2), -86_400, AHEAD_S + 2, 86_400])
def test_other_times_are_refused_with_the_difference(seconds: int) -> None:
    with pytest.raises(ClockSkew, match=f"{abs(seconds)} s") as caught:
        verify(signed(at=NOW + seconds * 1000))
    assert caught.value.details["offset_s"] == seconds


def test_a_longer_life_cannot_be_claimed() -> None:
    message = signed(at=NOW - 3_600_000)
    later = f"expires={NOW // 1000 + 10}"
    expires = f"expires={NOW // 1000 - 3600 + LIFE_S}"
    message.headers["Signature-Input"] = message.headers["Signature-Input"].replace(expires, later)
    with pytest.raises(SignatureRefused):
        verify(message)


def test_a_second_signature_is_refused() -> None:
    one, two = signed(), signed(by=mallory)
    for name in ("Signature", "Signature-Input"):
        one.headers[name] += ", " + two.headers[name].replace("ods=", "also=", 1)
    keys = {alice.node_id: alice.public_key, mallory.node_id: mallory.public_key}
    with pytest.raises(SignatureInvalid):
        verify(one, key_for=keys.get)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://A.example", "a.example"),
        ("http://a.example:80/x", "a.example"),
        ("https://a.example:443", "a.example"),
        ("https://a.example:80", "a.example:80"),
        ("http://[::1]:8080", "[::1]:8080"),
    ],
)
def test_authority(url: str, expected: str) -> None:
    assert authority(url) == expected


def test_the_example_of_the_standard() -> None:
    """RFC 9421, appendix B.2.6, with the key of B.1.4."""
    base = (
        b'"date": Tue, 20 Apr 2021 02:07:55 GMT\n"@method": POST\n"@path": /foo\n"@authority": example.com\n'
        b'"content-type": application/json\n"content-length": 18\n'
        b'"@signature-params": ("date" "@method" "@path" "@authority" "content-type" "content-length")'
        b';created=1618884473;keyid="test-key-ed25519"'
    )
    key = base64.urlsafe_b64decode("n4Ni-HpISpVObnQMW0wOhCKROaIKqKtW_2ZYb2p9KcU=")
    expected = "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw=="
    example = Identity(Ed25519PrivateKey.from_private_bytes(key))
    assert base64.b64encode(example.sign(base)).decode() == expected
    assert base64.urlsafe_b64encode(example.public_key) == b"JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs="
    assert signature_holds(example.public_key, base64.b64decode(expected), base)


def test_what_is_signed_can_be_checked_by_the_standard_alone() -> None:
    """The signature base written out by hand, as another implementation would build it."""
    message = signed()
    parameters = message.headers["Signature-Input"].partition("=")[2]
    digest = base64.b64encode(hashlib.sha256(BODY).digest()).decode()
    assert message.headers["Content-Digest"] == f"sha-256=:{digest}:"
    base = (
        f'"@method": POST\n"@authority": b.example:8443\n"@path": /peer/v1/changes\n"@query": ?since=3&feed=x\n'
        f'"content-digest": sha-256=:{digest}:\n"@signature-params": {parameters}'
    )
    raw = base64.b64decode(message.headers["Signature"].partition("=:")[2].rstrip(":"))
    assert signature_holds(alice.public_key, raw, base.encode())


@pytest.mark.parametrize("name", ["Signature", "Signature-Input", "Content-Digest"])
@pytest.mark.parametrize(
    "value", ["", "\xe9", "\u2028", "x", "ods=:AAAA:", "ods=()", "ods", "a" * 20_000, "ods=:\xe9:", '"']
)
def test_broken_headers_are_refusals_and_no_faults(name: str, value: str) -> None:
    message = signed()
    message.headers[name] = value
    with pytest.raises(SignatureRefused):
        verify(message)


@given(st.text(max_size=80), st.text(max_size=80))
def test_no_header_breaks_it(signature: str, input: str) -> None:
    message = signed()
    message.headers["Signature"], message.headers["Signature-Input"] = signature, input
    with pytest.raises(SignatureRefused):
        verify(message)
