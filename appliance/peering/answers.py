"""What a peer's refusal means to us."""

import json
import re
from collections.abc import Mapping
from typing import Any

from appliance.domain.errors import PeerBusy, PeerError, PeerMisbehaved, PeerRefused, PeerUnreachable

_SHOWN = 300
_LONGEST_S = 3600
_CLOCK_S = 10**11  #: seconds; what is more is no clock
_SECONDS = re.compile(r"[0-9]{1,9}")


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> PeerError:
    """The error for an answer that is not what was asked for.

    Args:
        status: HTTP status.
        headers: With lower-case names.
        body: Its first bytes.
    """
    data = _problem(body)
    code, detail = (str(data.get(name, ""))[:_SHOWN] for name in ("code", "detail"))
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
        ahead = data.get("offset_s") if code == "clock_skew" else None
        clock = {"offset_s": ahead} if type(ahead) is int and abs(ahead) < _CLOCK_S else {}
        return PeerRefused(text, status=status, code=code, **clock)
    return PeerMisbehaved(text)


def _problem(body: bytes) -> dict[str, Any]:
    try:
        data: Any = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
