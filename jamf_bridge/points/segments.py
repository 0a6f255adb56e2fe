"""What a look at an MDM's network segments suggests. Nothing is ever written to them."""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from ..driver import NodeFacts


def suggestions(
    segments: Sequence[Mapping[str, Any]], points: Sequence[Mapping[str, Any]], nodes: Sequence[NodeFacts]
) -> list[dict[str, str]]:
    """Segments whose devices may fetch from far away: those without a distribution point, or with one that is gone.

    Args:
        segments: As `Driver.segments` answers.
        points: The distribution point records.
        nodes: The network's nodes, as their records are called.

    Returns:
        Per segment "name", "start", "end", "distribution_point" and "suggestion", a sentence.
    """
    known = {str(point.get("name", "")) for point in points}
    found = []
    for segment in segments:
        named = str(segment.get("distribution_point") or "")
        if named in known:
            continue
        fault = f'There is no distribution point "{named}".' if named else "It has no distribution point."
        inside = [node.record_name for node in nodes if _within(segment, node.url)]
        advice = f" Within it is: {', '.join(inside)}." if inside else ""
        row = {name: str(segment.get(name) or "") for name in ("name", "start", "end")}
        found.append({**row, "distribution_point": named, "suggestion": fault + advice})
    return found


def _within(segment: Mapping[str, Any], url: str) -> bool:
    """Whether a node whose URL has an address, not a name, lies in a segment."""
    try:
        host = ipaddress.ip_address(urlsplit(url).hostname or "")
        start = ipaddress.ip_address(str(segment.get("start")))
        end = ipaddress.ip_address(str(segment.get("end")))
    except ValueError:
        return False
    return start.version == host.version == end.version and int(start) <= int(host) <= int(end)
