"""Entries of the event log, written in the same store operation as the change that they describe."""

import secrets
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from appliance.domain.event import EventType
from appliance.store.ports import Insert

SYSTEM = "system"

#: the address of who is served now, "" outside of a request
remote_address: ContextVar[str] = ContextVar("remote_address", default="")


def entry(type: EventType, *, at: int, actor: str, subject: str, **data: Any) -> Insert:
    """The operation that logs an event. What a person or program did has the address that it came from.

    Args:
        type: What happened.
        at: When, UTC milliseconds.
        actor: Who: an account, `node:<id>` or `system`.
        subject: To what: a package id, node id, account, ...
        **data: What else to know; no secrets.
    """
    address = remote_address.get()
    content: Mapping[str, Any] = data
    if address and actor != SYSTEM and not actor.startswith("node:"):
        content = {
            "address": address,
            **data,
        }  # a request's tasks inherit its address; what others do has none
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
