"""Marks: how far the node's data had changed when a page was made, so that the page misses nothing that comes after.

A mark is opaque to the page: it goes into the page, and comes back with the request for its live stream.
"""

import secrets
from collections.abc import Iterable

from appliance.api.app import App

TOPICS = (
    "packages", "transfers", "records", "peers", "jobs", "events", "uploads", "invites",
    "progress",  # at other nodes: of no collection
    "scrub", "damaged", "mdm_servers", "mdm_remote", "mdm_links", "mdm_points", "destinations", "deliveries",
)  # fmt: skip
_PROCESS = secrets.token_hex(4)  #: counts of another process mean nothing here


async def mark(app: App) -> str:
    """The mark of this moment."""
    counts = [
        app.neighbourhood.version if topic == "progress" else await app.store.changed(topic, -1, timeout=0)
        for topic in TOPICS
    ]
    return ".".join([_PROCESS, *map(str, counts)])


def changed(topics: Iterable[str], before: str, now: str) -> list[str]:
    """Those of the topics that may have changed between two marks; all, if the first is not of this process."""
    old, new = before.split("."), now.split(".")
    if old[0] != new[0] or len(old) != len(new):
        return list(topics)
    return [topic for topic in topics if old[1 + TOPICS.index(topic)] != new[1 + TOPICS.index(topic)]]
