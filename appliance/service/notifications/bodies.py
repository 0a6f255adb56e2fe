"""What a webhook carries: the standard body, and those that Slack and Microsoft Teams show.

Names and notes come from people and other nodes. In Slack's text `&`, `<` and `>` are escaped, which leaves no
way to mention or link; in Teams all of it stands in text runs, which know no markup.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from appliance.domain.destination import WebhookFormat
from appliance.domain.event import Event

from .wording import facts_of, title_of

MAX_DETAILS = 64 * 1024  #: bytes of JSON; larger details are left out, and the message says so


@dataclass(frozen=True, slots=True, kw_only=True)
class Teller:
    """The node that tells."""

    id: str
    name: str
    url: str


def timestamp(ms: int) -> str:
    """UTC milliseconds as ISO 8601."""
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def standard(event: Event, teller: Teller) -> dict[str, Any]:
    """The message of the Standard Webhooks specification: `type`, `timestamp`, `data`."""
    details: Mapping[str, Any] = event.data
    truncated = len(json.dumps(details, ensure_ascii=False, default=str).encode()) > MAX_DETAILS
    return {
        "type": event.type,
        "timestamp": timestamp(event.at),
        "data": {
            "seq": event.seq,
            "title": title_of(event),
            "actor": event.actor,
            "subject": event.subject,
            "node": {"id": teller.id, "name": teller.name, "url": teller.url},
            "details": {} if truncated else dict(details),
            "truncated": truncated,
        },
    }


def slack(event: Event, teller: Teller) -> dict[str, Any]:
    """A message for an incoming webhook of Slack (https://docs.slack.dev/reference/block-kit)."""
    title = _slack_text(title_of(event))
    lines = "\n".join(f"*{_slack_text(name)}:* {_slack_text(value)}" for name, value in facts_of(event))
    return {
        "text": f"{title} ({_slack_text(teller.name)})",
        "blocks": [
            {"type": "section", "text": {"type": "mrkdwn", "text": f"*{title}*"}},
            {"type": "section", "text": {"type": "mrkdwn", "text": _cut(lines, 2900)}},
            {
                "type": "context",
                "elements": [
                    {"type": "mrkdwn", "text": f"{_slack_text(teller.name)} · {timestamp(event.at)}"}
                ],
            },
        ],
    }


def teams(event: Event, teller: Teller) -> dict[str, Any]:
    """An adaptive card for a workflow of Microsoft Teams (https://adaptivecards.io, version 1.4)."""

    def text(words: str, **style: Any) -> dict[str, Any]:
        return {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": words, **style}]}

    facts = [
        {
            "type": "RichTextBlock",
            "spacing": "Small",
            "inlines": [
                {"type": "TextRun", "text": f"{name}: ", "weight": "Bolder"},
                {"type": "TextRun", "text": value},
            ],
        }
        for name, value in facts_of(event)
    ]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "fallbackText": title_of(event),
        "body": [
            text(title_of(event), weight="Bolder", size="Medium"),
            *facts,
            text(f"{teller.name} · {timestamp(event.at)}", isSubtle=True, size="Small"),
        ],
    }
    return {
        "type": "message",
        "attachments": [
            {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
        ],
    }


def json_body(format: WebhookFormat, event: Event, teller: Teller) -> bytes:
    """The body of every format but `template`, as compact UTF-8 JSON."""
    make = {WebhookFormat.SLACK: slack, WebhookFormat.TEAMS: teams}.get(format, standard)
    return json.dumps(make(event, teller), ensure_ascii=False, separators=(",", ":"), default=str).encode()


def _slack_text(text: str) -> str:
    for character, name in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(character, name)
    return text


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit].rsplit("\n", 1)[0]
