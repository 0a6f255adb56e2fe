"""Signatures of webhooks as the Standard Webhooks specification has them.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md (version 1).
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence

PREFIX = "whsec_"
SECRET_BYTES = 32  #: the specification asks for 24 to 64


def new_secret() -> str:
    """A random secret as receivers take it: `whsec_` and base64."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode("ascii")


def headers(body: bytes, *, id: str, at: int, signing: Sequence[str]) -> dict[str, str]:
    """The three headers of a signed webhook.

    Args:
        body: As it is sent.
        id: Of the message; the same whenever it is sent again.
        at: When this attempt is made, UTC milliseconds.
        signing: Secrets; while one replaces another both sign, and a receiver accepts either.
    """
    seconds = str(at // 1000)
    signed = b".".join((id.encode(), seconds.encode(), body))
    signatures = [
        base64.b64encode(hmac.new(_key(secret), signed, hashlib.sha256).digest()).decode("ascii")
        for secret in signing
    ]
    return {
        "webhook-id": id,
        "webhook-timestamp": seconds,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def _key(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(PREFIX))
