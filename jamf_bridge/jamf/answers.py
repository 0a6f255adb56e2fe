"""Turns what a Jamf Pro server answered into a body or a typed error."""

import email.utils
import html
import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import (
    JamfAuthenticationError,
    JamfAuthorizationError,
    JamfBusy,
    JamfConflict,
    JamfError,
    JamfInvalid,
    JamfNotFound,
    JamfNotJamf,
    JamfServerError,
    JamfSurprise,
)
from .privileges import privilege_for

_CLASSIC_ERROR = re.compile(r"<p>\s*(?:Error:\s*)?([^<]{1,300})</p>", re.I)
_MAX_WAIT_S = 600.0
_TAKEN_CODE = re.compile(r"DUPLICATE|ALREADY|NOT_UNIQUE|UNIQUE_|_EXISTS$", re.I)
_TAKEN_WORDS = re.compile(
    r"\bduplicate (?:name|field|value)|\balready (?:exists|in use|taken|used)|must be unique|\bnot unique",
    re.I,
)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from a Retry-After header, given in seconds or as a date; None if there is none that can be read."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 7:
        return min(float(text), _MAX_WAIT_S)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return None
    return min(max(0.0, moment.timestamp() - time.time()), _MAX_WAIT_S)


def json_of(body: bytes, call: str, status: int) -> Any:
    """The JSON of a body, None if it is empty.

    Raises:
        JamfNotJamf: It is a web page, or nothing that an API answers.
    """
    if not body.strip():
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as exc:
        if body.lstrip()[:1] == b"<":
            raise JamfNotJamf(
                "A web page was answered where Jamf Pro's API should be. Check the URL, and whether a sign-in page or "
                "a proxy stands before it.",
                call=call,
                status=status,
            ) from exc
        raise JamfSurprise("The answer is not JSON.", call=call, status=status) from exc


def error_of(method: str, path: str, status: int, headers: Mapping[str, str], body: bytes) -> JamfError:
    """The error for an answer that is none of success."""
    call = f"{method} {path}"
    codes, field, said = _details(body)
    tail = f": {said}" if said else ""
    match status:
        case 401:
            return JamfAuthenticationError(
                f"Jamf Pro refused the token{tail}.", call=call, status=status, codes=codes
            )
        case 403:
            privilege = privilege_for(method, path)
            text = f'the privilege "{privilege}" is missing' if privilege else "a privilege is missing"
            return JamfAuthorizationError(f"{call}: {text}{tail}.", privilege=privilege, call=call)
        case 404 | 410:
            if body.lstrip()[:1] == b"<" and path.startswith("/api/"):
                page = "Jamf Pro's API is not at this URL"
                return JamfNotJamf(f"{call}: {page} (404 with a web page).", call=call, status=status)
            return JamfNotFound(
                f"{call}: there is no such thing{tail}.", call=call, status=status, codes=codes
            )
        case 409:
            return JamfConflict(
                f"{call} was refused{tail}.", call=call, status=status, codes=codes, field=field
            )
        case 429 | 503:
            wait = retry_after(headers)
            return JamfBusy(f"{call}: Jamf Pro is busy{tail}.", retry_after=wait, call=call, status=status)
        case _ if 400 <= status < 500:
            kind = JamfConflict if _exists(codes, said) else JamfInvalid
            return kind(f"{call} was refused{tail}.", call=call, status=status, codes=codes, field=field)
        case _ if status >= 500:
            return JamfServerError(
                f"{call}: Jamf Pro failed ({status}){tail}.", call=call, status=status, codes=codes
            )
        case _:
            return JamfSurprise(f"{call}: unexpected status {status}.", call=call, status=status)


def _exists(codes: Sequence[str], said: str) -> bool:
    """Whether a refusal says that there is such a record, in any of the words that Jamf Pro has for it."""
    return any(_TAKEN_CODE.search(code) for code in codes) or bool(_TAKEN_WORDS.search(said))


def _details(body: bytes) -> tuple[list[str], str, str]:
    """Codes, the field of the first, and the sentence of an error: ApiError, or Classic's web page."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        found = _CLASSIC_ERROR.findall(body[:10_000].decode("utf-8", "replace"))
        return [], "", html.unescape(found[0]).strip().rstrip(".") if found else ""
    errors = data.get("errors") if isinstance(data, dict) else None
    items = [item for item in errors if isinstance(item, dict)] if isinstance(errors, list) else []
    codes = [str(item.get("code") or "") for item in items]
    field = str(items[0].get("field") or "") if items else ""
    said = "; ".join(
        " ".join(str(item.get(name) or "") for name in ("code", "field", "description")) for item in items
    )
    return codes, field, said.strip()[:500]
