"""Signed requests between nodes: HTTP Message Signatures (RFC 9421) with Ed25519 and Content-Digest (RFC 9530).

Every request covers method, authority, path, query and the digest of its body, which is sent for empty bodies too,
and carries created, expires, a nonce, the node id as key id, and our tag. The authority is compared with this
node's own configured URL, never with the Host header alone, so a request to one node cannot be replayed to another.

The library builds and parses structured fields character by character, which costs more than the cryptography. So
a request is signed here in one fixed form, and one of exactly that form is checked here; every other form goes
through the library. Tests hold both ways against each other.
"""

import base64
import datetime
import hashlib
import re
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

from .address import authority
from .identity import Identity, signature_holds

TAG = "ods-peer-v1"
LABEL = "ods"
COVERED = ("@method", "@authority", "@path", "@query", "content-digest")
LIFE_S = 60
AHEAD_S = 30

_PLAIN_URL = re.compile(
    r"https?://[A-Za-z0-9._:\[\]-]+(?P<path>/[A-Za-z0-9/._~-]*)(?P<query>\?[A-Za-z0-9._~=&-]*)?"
)
_COVERED_TEXT = "(" + " ".join(f'"{component}"' for component in COVERED) + ")"
_INPUT = re.compile(
    rf"{LABEL}=(?P<signed>{re.escape(_COVERED_TEXT)};created=(?P<created>[1-9][0-9]{{0,14}});"
    r'keyid="(?P<keyid>[a-z2-7]{52})";alg="ed25519";expires=(?P<expires>[1-9][0-9]{0,14});'
    rf'nonce="(?P<nonce>[0-9a-f]{{32}})";tag="{TAG}")'
)
_SIGNATURE = re.compile(rf"{LABEL}=:(?P<raw>[A-Za-z0-9+/]{{86}}==):")


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
    plain = _PLAIN_URL.fullmatch(url)
    if plain is not None and method.isascii() and method.isalpha() and method.isupper():
        _sign_plainly(identity, message, plain, body, now() // 1000)
        return message.headers
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


def _sign_plainly(
    identity: Identity, message: Message, url: re.Match[str], body: bytes, created: int
) -> None:
    digest = _digest(body)
    parameters = (
        f'{_COVERED_TEXT};created={created};keyid="{identity.node_id}";alg="ed25519";'
        f'expires={created + LIFE_S};nonce="{secrets.token_hex(16)}";tag="{TAG}"'
    )
    base = _base(message.method, authority(url[0]), url["path"], url["query"] or "?", digest, parameters)
    signature = base64.b64encode(identity.sign(base)).decode("ascii")
    message.headers["Content-Digest"] = digest
    message.headers["Signature-Input"] = f"{LABEL}={parameters}"
    message.headers["Signature"] = f"{LABEL}=:{signature}:"


def _digest(body: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode('ascii')}:"


def _base(method: str, authority: str, path: str, query: str, digest: str, parameters: str) -> bytes:
    """The signature base of RFC 9421, section 2.5, for the components that we cover."""
    values = (method, authority, path, query, digest)
    lines = [f'"{component}": {value}' for component, value in zip(COVERED, values, strict=True)]
    return "\n".join([*lines, f'"@signature-params": {parameters}']).encode("ascii")


class _Verifier(HTTPMessageVerifier):
    """The library's verifier without its clock: ours is another, and is asked when the signature holds."""

    def validate_created_and_expires(self, sig_input: Any, max_age: datetime.timedelta | None = None) -> None:
        """See `_check_time`."""


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
    try:
        parts = urlsplit(message.url)
    except ValueError as exc:
        raise SignatureInvalid("The address of the request is not valid.") from exc
    query = f"?{parts.query}" if parts.query else ""
    # The library drops a scheme's default port; the authority here is the one to compare with, as it is.
    scheme = "https" if authority.endswith(":80") else "http"
    own = Message(message.method, f"{scheme}://{authority}{parts.path}{query}", lowered)
    signed, expires = _verified_plainly(own, authority, body, key_for) or _verified(own, body, key_for)
    _check_time(signed, expires, now() // 1000)
    return signed


def _verified_plainly(
    own: Message, authority: str, body: bytes, key_for: Callable[[str], bytes | None]
) -> tuple[Signed, int] | None:
    """Who signed a request in the form that `_sign_plainly` gives it, and when that ends; None if it has another."""
    url = _PLAIN_URL.fullmatch(own.url)
    stated = _INPUT.fullmatch(own.headers["signature-input"])
    signature = _SIGNATURE.fullmatch(own.headers["signature"])
    digest = _digest(body)
    if url is None or stated is None or signature is None or own.headers.get("content-digest") != digest:
        return None
    if not (own.method.isascii() and own.method.isalpha() and own.method.isupper()):
        return None
    key = key_for(stated["keyid"])
    if key is None:
        raise PeerUnknown("The signing node is not registered here.", node=stated["keyid"])
    base = _base(own.method, authority, url["path"], url["query"] or "?", digest, stated["signed"])
    if not signature_holds(key, base64.b64decode(signature["raw"]), base):
        raise SignatureInvalid("The request's signature does not verify.")
    signed = Signed(node=stated["keyid"], nonce=stated["nonce"], created=int(stated["created"]))
    return signed, int(stated["expires"])


def _verified(own: Message, body: bytes, key_for: Callable[[str], bytes | None]) -> tuple[Signed, int]:
    """Who signed a request of any form, and when that ends."""
    verifier = _Verifier(signature_algorithm=algorithms.ED25519, key_resolver=_PeerKeys(key_for))
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
    created, expires = parameters.get("created"), parameters.get("expires")
    if type(created) is not int or type(expires) is not int:
        raise SignatureInvalid("A signature states when it was created and when it expires.")
    return Signed(node=str(parameters["keyid"]), nonce=nonce, created=created), expires


def _check_time(signed: Signed, expires: int, now_s: int) -> None:
    """Refuse what is too old, too new or lives too long. The signature holds, so this is the node's own clock."""
    if not signed.created < expires <= signed.created + LIFE_S:
        raise SignatureInvalid(f"A signature expires at most {LIFE_S} s after it was created.")
    ahead = signed.created - now_s
    if ahead > AHEAD_S or now_s > expires:
        side = f"{ahead} s ahead of" if ahead > 0 else f"{-ahead} s behind"
        raise ClockSkew(
            f"The request was signed {side} this node's clock; check the clocks of both nodes (NTP). "
            f"Allowed are {LIFE_S} s behind and {AHEAD_S} s ahead.",
            node=signed.node,
            offset_s=ahead,
            now=now_s,
        )
