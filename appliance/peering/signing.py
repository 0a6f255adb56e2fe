"""Signed requests between nodes: HTTP Message Signatures (RFC 9421) with Ed25519 and Content-Digest (RFC 9530).

Every request covers method, authority, path, query and the digest of its body, which is sent for empty bodies too,
and carries created, expires, a nonce, the node id as key id, and our tag. The authority is compared with this
node's own configured URL, never with the Host header alone, so a request to one node cannot be replayed to another.
"""

import datetime
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from http_message_signatures import HTTPMessageSigner, HTTPMessageVerifier, algorithms
from http_message_signatures.exceptions import HTTPMessageSignaturesException
from http_message_signatures.resolvers import HTTPSignatureKeyResolver

from appliance.domain.errors import ClockSkew, PeerUnknown, SignatureInvalid, SignatureMissing

from .identity import Identity

TAG = "ods-peer-v1"
LABEL = "ods"
COVERED = ("@method", "@authority", "@path", "@query", "content-digest")
LIFE_S = 60
AHEAD_S = 30


@dataclass(slots=True)
class Message:
    """A request as the signature library wants to see it."""

    method: str
    url: str  #: absolute
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """What a verified request's signature says."""

    node: str  #: id of the node that signed
    nonce: str
    created: int  #: UTC seconds


class _OwnKey(HTTPSignatureKeyResolver):
    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    def resolve_private_key(self, key_id: str) -> Ed25519PrivateKey:
        return self._key


class _PeerKeys(HTTPSignatureKeyResolver):
    def __init__(self, key_for: Callable[[str], bytes | None]) -> None:
        self._key_for = key_for

    def resolve_public_key(self, key_id: str) -> Ed25519PublicKey:
        key = self._key_for(key_id)
        if key is None:
            raise PeerUnknown("The signing node is not registered here.", node=key_id)
        return Ed25519PublicKey.from_public_bytes(key)


def sign_request(
    identity: Identity,
    method: str,
    url: str,
    body: bytes,
    *,
    now: Callable[[], int],
    headers: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The headers to send with a request, those of `headers` included.

    Args:
        identity: Who signs.
        method: In capitals.
        url: Absolute, exactly as it will be requested.
        body: The bytes of the body; empty for none.
        now: UTC milliseconds.
        headers: Further headers; they are not covered by the signature.
    """
    message = Message(method, url, dict(headers or {}))
    created = datetime.datetime.fromtimestamp(now() // 1000, tz=datetime.UTC)
    HTTPMessageSigner(
        signature_algorithm=algorithms.ED25519, key_resolver=_OwnKey(identity.private_key)
    ).sign(
        message,
        key_id=identity.node_id,
        created=created,
        expires=created + datetime.timedelta(seconds=LIFE_S),
        nonce=secrets.token_hex(16),
        label=LABEL,
        tag=TAG,
        covered_component_ids=COVERED,
        body=body,
    )
    return message.headers


class _Verifier(HTTPMessageVerifier):
    """The library's verifier with our clock: it would use the system's and 5 s of skew."""

    now_s: int = 0

    def validate_created_and_expires(self, sig_input: Any, max_age: datetime.timedelta | None = None) -> None:
        created, expires = sig_input.params.get("created"), sig_input.params.get("expires")
        if type(created) is not int or type(expires) is not int or not created < expires <= created + LIFE_S:
            raise SignatureInvalid(f"A signature states created and expires, at most {LIFE_S} s apart.")
        ahead = created - self.now_s
        if ahead > AHEAD_S or self.now_s > expires:
            side = f"{ahead} s ahead of" if ahead > 0 else f"{-ahead} s behind"
            raise ClockSkew(
                f"The request was signed {side} this node's clock; check the clocks of both nodes (NTP). "
                f"Allowed are {LIFE_S} s behind and {AHEAD_S} s ahead.",
                offset_s=ahead,
                now=self.now_s,
            )


def verify_request(
    message: Message,
    body: bytes,
    *,
    authority: str,
    key_for: Callable[[str], bytes | None],
    now: Callable[[], int],
) -> Signed:
    """Check who signed a request. Nonces are the caller's: see `nonces`.

    Args:
        message: The request; its URL's authority is replaced by `authority`.
        body: The body's bytes.
        authority: Host and port of this node's configured URL.
        key_for: The raw public key of a registered node, or None.
        now: UTC milliseconds.

    Raises:
        SignatureMissing: There is no signature with our tag.
        SignatureInvalid: It does not verify, or does not cover all it must.
        ClockSkew: It was made too long ago or in the future.
        PeerUnknown: The signing node is not registered.
    """
    lowered = {name.lower(): value for name, value in message.headers.items()}
    if "signature" not in lowered or "signature-input" not in lowered:
        raise SignatureMissing("Requests between nodes are signed (RFC 9421); this one is not.")
    parts = urlsplit(message.url)
    query = f"?{parts.query}" if parts.query else ""
    own = Message(message.method, f"{parts.scheme or 'http'}://{authority}{parts.path}{query}", lowered)
    verifier = _Verifier(signature_algorithm=algorithms.ED25519, key_resolver=_PeerKeys(key_for))
    verifier.now_s = now() // 1000
    try:
        results = verifier.verify(own, max_age=None, expect_tag=TAG, require_components=COVERED, body=body)
    except HTTPMessageSignaturesException as exc:
        cause = exc.__cause__
        if isinstance(cause, PeerUnknown):
            raise cause from None
        reason = str(exc) or "it is wrong"
        raise SignatureInvalid(f"The request's signature does not verify: {reason}.") from exc
    if len(results) != 1:
        raise SignatureInvalid("A request carries one signature of a node.")
    parameters = results[0].parameters
    nonce = parameters.get("nonce")
    if not isinstance(nonce, str) or not 16 <= len(nonce) <= 64:
        raise SignatureInvalid("A signature carries a nonce of 16 to 64 characters.")
    return Signed(node=str(parameters["keyid"]), nonce=nonce, created=int(parameters["created"]))
