"""Pages say what happens and when in words."""

from typing import Any

import pytest

from appliance.api.notifications import delivery_json
from appliance.domain.destination import DeliveryState, Destination, DestinationKind, DestinationState
from appliance.domain.event import EventType
from web.notifications import EVENTS, USUAL
from web.people import browser_of
from web.templating import due_tag
from web.wording import WORDS, _changes, words_of


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


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Safari",
         "Safari 18 on macOS"),
        ("Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/131.0.0.0 Safari/537.36 Edg/131.0.0.0",
         "Edge 131 on Windows"),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox 140 on Linux"),
        ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/156.0.0.0 Safari/537.36", "Chrome 156 on Linux"),
        ("curl/8.5.0", "curl/8.5.0"),
        ("<b>x</b> y", "<b>x</b>"),
        ("", "unknown"),
    ],
)  # fmt: skip
def test_browsers(agent: str, words: str) -> None:
    assert browser_of(agent) == words


def test_what_is_worth_hearing_can_be_chosen() -> None:
    worth = {
        "package.published", "package.replaced", "package.withdrawn", "package.replicated", "transfer.failed",
        "package.damaged", "peer.joined", "peer.left", "peer.down", "peer.up", "disk.low", "mdm.attention",
        "sign_in.locked", "certificate.expiring",
    }  # fmt: skip
    assert worth <= USUAL <= set(EVENTS)
    assert EVENTS[0] == "*"


def test_what_became_of_a_state() -> None:
    assert _changes({"before": "connected", "state": "unreachable", "reason": "away"}) == [
        ("state", "connected → unreachable"),
        ("reason", "away"),
    ]
    assert _changes({"before": {"a": 1}, "after": {"a": 2}, "state": "x"}) == [("a", "1 → 2"), ("state", "x")]
    assert _changes({"before": "1" * 64, "sha256": "2" * 64})[0][0] == "before"
