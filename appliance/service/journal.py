"""Entries of the event log, written in the same store operation as the change that they describe."""

import secrets
from collections.abc import Mapping
from typing import Any

from appliance.domain.event import EventType
from appliance.store.ports import Insert

SYSTEM = "system"


def entry(type: EventType, *, at: int, actor: str, subject: str, **data: Any) -> Insert:
    """The operation that logs an event.

    Args:
        type: What happened.
        at: When, UTC milliseconds.
        actor: Who: an account, `node:<id>` or `system`.
        subject: To what: a package id, node id, account, ...
        **data: What else to know; no secrets.
    """
    content: Mapping[str, Any] = data
    return Insert(
        "events",
        {
            "_id": secrets.token_hex(12),
            "type": str(type),
            "at": at,
            "actor": actor,
            "subject": subject,
            "data": content,
        },
    )
