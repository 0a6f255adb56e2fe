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
        return PeerUnreachable(f"Its URL redirects ({status}); a node is called by its own URL.")
    if status >= 500:
        return PeerUnreachable(text)
    if not is_of_a_node(headers):
        return PeerUnreachable(f"{text}. {_FOREIGN}")
    if status >= 400:
        return PeerRefused(text, status=status, code=code)
    return PeerUnreachable(f"{text}, which is not what was asked for. {_FOREIGN}")


def is_of_a_node(headers: Mapping[str, str]) -> bool:
    """Whether an answer can be a node's: it sends JSON, problems and bytes, and never a page."""
    return headers.get("content-type", "").partition(";")[0].strip().lower() in _KINDS


def foreign(url: str) -> PeerUnreachable:
    """The error for an answer that is not a node's."""
    return PeerUnreachable(f"{url} does not answer as a node does. {_FOREIGN}")


def _problem(body: bytes) -> tuple[str, str]:
    try:
        data: Any = json.loads(body)
    except (ValueError, RecursionError):
        return "", ""
    if not isinstance(data, dict):
        return "", ""
    return str(data.get("code", ""))[:_SHOWN], str(data.get("detail", ""))[:_SHOWN]
