"""Invites: one line of text that lets one node register with another, once.

It carries the inviter's URL, public key and TLS fingerprint, and a 160-bit secret. The secret never travels: both
sides prove with HMAC-SHA256 that they know it, over what they send each other.
"""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import rfc8785

from appliance.domain.errors import InvalidInput
from appliance.domain.names import node_id

from .address import check_url

PREFIX = "ods1."
SECRET_BYTES = 20
_MAX = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Invite:
    """What an invite says."""

    id: str
    url: str  #: of the inviter
    key: bytes  #: the inviter's public key
    tls_fingerprint: str  #: hex, "" if its certificate is to be verified as usual
    secret: bytes
    expires_at: int  #: UTC milliseconds

    @property
    def node(self) -> str:
        """Node id of the inviter."""
        return node_id(self.key)

    def text(self) -> str:
        """The line to copy."""
        data = {
            "i": self.id,
            "u": self.url,
            "k": _encode(self.key),
            "f": self.tls_fingerprint,
            "s": _encode(self.secret),
            "e": self.expires_at,
        }
        return PREFIX + _encode(json.dumps(data, separators=(",", ":")).encode())


def new_secret() -> bytes:
    """A fresh secret."""
    return secrets.token_bytes(SECRET_BYTES)


def parse_invite(text: str) -> Invite:
    """Read an invite.

    Raises:
        InvalidInput: It is not one, or is cut off.
    """
    text = "".join(text.split())
    if not text.startswith(PREFIX) or len(text) > _MAX:
        raise InvalidInput(f"An invite is one line that begins with {PREFIX}; copy the whole line.")
    try:
        data = json.loads(_decode(text.removeprefix(PREFIX)))
        invite = Invite(
            id=str(data["i"]),
            url=check_url(str(data["u"])),
            key=_decode(data["k"]),
            tls_fingerprint=str(data["f"]),
            secret=_decode(data["s"]),
            expires_at=int(data["e"]),
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as exc:
        raise InvalidInput("The invite is damaged or cut off; copy the whole line.") from exc
    if len(invite.key) != 32 or len(invite.secret) != SECRET_BYTES:
        raise InvalidInput("The invite is damaged or cut off; copy the whole line.")
    return invite


def registration_mac(secret: bytes, invite: str, record: Mapping[str, Any], nonce: str) -> str:
    """Proves that the joining node knows the secret."""
    return _mac(secret, {"role": "join", "invite": invite, "record": dict(record), "nonce": nonce})


def answer_mac(secret: bytes, invite: str, record: Mapping[str, Any], nonce: str) -> str:
    """Proves that the inviter knows the secret, and answers this very registration."""
    return _mac(secret, {"role": "invite", "invite": invite, "record": dict(record), "nonce": nonce})


def same_mac(one: str, other: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(one.encode(), other.encode())


def _mac(secret: bytes, data: Mapping[str, Any]) -> str:
    return hmac.new(secret, rfc8785.dumps(dict(data)), hashlib.sha256).hexdigest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
