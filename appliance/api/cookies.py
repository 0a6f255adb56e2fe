"""The session cookie.

Cookies know no ports, so the name carries the node: several nodes on one host do not sign each other's people out. Over
TLS the name begins with `__Host-`, which binds the cookie to this very host (RFC 6265bis, 4.1.3.2).
"""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import BaseHandler

XSRF_HEADER = "X-XSRF-Token"  #: repeats what only a page of ours knows
BACKGROUND_HEADER = "X-ODS-Background"  #: a page renews itself: nobody is working


def read_session(handler: "BaseHandler") -> str:
    """The token that the browser sent, or ""."""
    return handler.get_cookie(_name(handler, "session")) or ""


def write_session(handler: "BaseHandler", token: str, *, life_s: int) -> None:
    """Give the browser a token for so many seconds."""
    _write(handler, "session", token, life_s)


def clear_session(handler: "BaseHandler") -> None:
    """Take the token away."""
    _write(handler, "session", "", -1)


def read_form_key(handler: "BaseHandler") -> str:
    """What a form that needs no session has to repeat, or ""."""
    return handler.get_cookie(_name(handler, "form")) or ""


def write_form_key(handler: "BaseHandler", key: str) -> None:
    """Give the browser what the sign-in form has to repeat."""
    _write(handler, "form", key, 24 * 3600)


def _write(handler: "BaseHandler", kind: str, value: str, life_s: int) -> None:
    handler.set_cookie(
        _name(handler, kind),
        value,
        path="/",
        expires=datetime.now(UTC) + timedelta(seconds=life_s),
        secure=handler.request.protocol == "https",
        httponly=True,
        samesite="Lax",
    )


def _name(handler: "BaseHandler", kind: str) -> str:
    name = f"ods-{handler.app.identity.node_id[:8]}-{kind}"
    return f"__Host-{name}" if handler.request.protocol == "https" else name
