"""What a peer's refusal means to us, and whether an answer is a node's at all.

Between two nodes there are proxies, captive portals and web servers with another site. What they say in a node's place
means that the node was not reached, not that it misbehaves: a strike is for what only the node itself can have done.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from appliance.domain.errors import PeerBusy, PeerError, PeerRefused, PeerUnreachable

_SHOWN = 300
_LONGEST_S = 3600
_KINDS = {"", "application/json", "application/problem+json", "application/octet-stream"}
_FOREIGN = "Look for a proxy or another web server at this address."
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
        return PeerBusy(text, code=code, retry_after=max(1, min(seconds, _LONGEST_S)))
    if 300 <= status < 400:
        return PeerUnreachable(f"Its URL redirects ({status}); a node is called by its own URL.")
    if status >= 500:
        return PeerUnreachable(text)
    if not is_of_a_node(headers):
        return PeerUnreachable(f"{text}. {_FOREIGN}")
    if status >= 400:
        ahead = data.get("offset_s") if code == "clock_skew" else None
        clock = {"offset_s": ahead} if type(ahead) is int and abs(ahead) < _CLOCK_S else {}
        return PeerRefused(text, status=status, code=code, **clock)
    return PeerUnreachable(f"{text}, which is not what was asked for. {_FOREIGN}")


def is_of_a_node(headers: Mapping[str, str]) -> bool:
    """Whether an answer can be a node's: it sends JSON, problems and bytes, and never a page."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() in _KINDS


def foreign(url: str) -> PeerUnreachable:
    """The error for an answer that is not a node's."""
    return PeerUnreachable(f"{url} does not answer as a node does. {_FOREIGN}")


def _problem(body: bytes) -> dict[str, Any]:
    try:
        data: Any = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}
