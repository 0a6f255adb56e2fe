"""What a peer's refusal means to us."""

import json
import re
from collections.abc import Mapping
from typing import Any

from appliance.domain.errors import PeerBusy, PeerError, PeerMisbehaved, PeerRefused, PeerUnreachable

_SHOWN = 300
_LONGEST_S = 3600
_SECONDS = re.compile(r"[0-9]{1,9}")


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> PeerError:
    """The error for an answer that is not what was asked for.

    Args:
        status: HTTP status.
        headers: With lower-case names.
        body: Its first bytes.
    """
    code, detail = _problem(body)
    text = f"It answered {status}{f' ({code})' if code else ''}{f': {detail}' if detail else ''}"
    if status in {429, 503}:
        after = headers.get("retry-after", "")
        seconds = int(after) if _SECONDS.fullmatch(after) else 5
        return PeerBusy(text, retry_after=max(1, min(seconds, _LONGEST_S)))
    if 300 <= status < 400:
        return PeerMisbehaved(f"It redirects ({status}); a node is called by its own URL.")
    if status >= 500:
        return PeerUnreachable(text)
    if status >= 400:
        return PeerRefused(text, status=status, code=code)
    return PeerMisbehaved(text)


def _problem(body: bytes) -> tuple[str, str]:
    try:
        data: Any = json.loads(body)
    except (ValueError, RecursionError):
        return "", ""
    if not isinstance(data, dict):
        return "", ""
    return str(data.get("code", ""))[:_SHOWN], str(data.get("detail", ""))[:_SHOWN]
