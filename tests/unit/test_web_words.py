"""Pages say what happens and when in words."""

from typing import Any

import pytest

from appliance.api.notifications import delivery_json
from appliance.domain.destination import DeliveryState, Destination, DestinationKind, DestinationState
from appliance.domain.event import EventType
from web.templating import due_tag
from web.wording import WORDS, words_of


def test_every_event_has_words() -> None:
    assert set(WORDS) == set(EventType)
    assert words_of("later.kind_of_event") == "later kind of event"


def test_an_escaped_moment_that_something_waits_for() -> None:
    assert due_tag(0, "<soon>") == "&lt;soon&gt;"
    assert due_tag(1_000).startswith('<time data-due datetime="1970-01-01T00:00:01+00:00"')


@pytest.mark.parametrize(
    ("state", "destination", "due"),
    [
        (DeliveryState.PENDING, {"not_before": 0}, "1970-01-01T00:00:05.000Z"),
        (DeliveryState.PENDING, {"not_before": 9_000}, "1970-01-01T00:00:09.000Z"),
        (DeliveryState.PENDING, {"state": DestinationState.SUSPENDED}, None),
        (DeliveryState.DELIVERED, {"not_before": 9_000}, None),
    ],
)
def test_when_a_delivery_is_tried(state: DeliveryState, destination: dict[str, Any], due: str | None) -> None:
    doc = {
        "_id": "d", "destination": "chat", "seq": 1, "type": "peer.down", "subject": "n", "state": str(state),
        "attempts": 0, "due_at": 5_000, "status": 0, "latency_ms": 0, "answer": "", "error": "", "created_at": 1,
        "updated_at": 1, "delivered_at": 0,
    }  # fmt: skip
    chat = Destination(id="chat", name="Chat", kind=DestinationKind.WEBHOOK, events=("*",), **destination)
    assert delivery_json(doc, {"chat": chat})["due_at"] == due
    assert delivery_json(doc, {})["due_at"] is None, "its destination was removed"
