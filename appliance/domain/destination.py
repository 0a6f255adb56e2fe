"""Destinations of notifications: who hears of which events, and how."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from .errors import InvalidInput, InvalidTransition
from .event import EventType

TEST_EVENT = "destination.test"  #: the type of the event that a person sends to try a destination

_PATTERN = re.compile(r"\*|[a-z_]+(?:\.[a-z_]+)*(?:\.\*)?")
_MAX_PATTERNS = 100


class DestinationKind(StrEnum):
    """By which road a notification goes."""

    WEBHOOK = "webhook"  #: an HTTP POST
    MAIL = "mail"  #: a message by SMTP


class WebhookFormat(StrEnum):
    """What the body of a webhook looks like."""

    STANDARD = "standard"  #: {"type", "timestamp", "data"}, as the Standard Webhooks specification has it
    SLACK = "slack"  #: Block Kit, for an incoming webhook of Slack
    TEAMS = "teams"  #: an adaptive card, for a workflow of Microsoft Teams
    TEMPLATE = "template"  #: what the destination's own template makes


class MailMode(StrEnum):
    """How often a mailbox hears."""

    IMMEDIATE = "immediate"  #: soon, at most once a minute
    DAILY = "daily"  #: once a day, at a set hour


class DestinationState(StrEnum):
    """Whether a destination is sent to."""

    ACTIVE = "active"
    SUSPENDED = "suspended"  #: it failed for days or said that it is gone; what is owed waits
    DISABLED = "disabled"  #: a person turned it off; nothing new is owed to it


class DeliveryState(StrEnum):
    """The life of one event that is owed to one destination."""

    PENDING = "pending"  #: waits for its time; tried again after a failure
    DELIVERED = "delivered"  #: the destination took it
    FAILED = "failed"  #: gave up; can be sent again by hand


DELIVERY_STEPS: Mapping[DeliveryState, frozenset[DeliveryState]] = {
    DeliveryState.PENDING: frozenset({DeliveryState.DELIVERED, DeliveryState.FAILED}),
    DeliveryState.DELIVERED: frozenset({DeliveryState.PENDING}),
    DeliveryState.FAILED: frozenset({DeliveryState.PENDING}),
}


def advance_delivery(current: DeliveryState, new: DeliveryState) -> DeliveryState:
    """Return `new` if it may follow `current`; staying is always allowed.

    Raises:
        InvalidTransition: It may not.
    """
    if new is not current and new not in DELIVERY_STEPS[current]:
        raise InvalidTransition(f"A delivery that is {current} cannot become {new}.")
    return new


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where notifications go. Sealed fields are encrypted; nothing outside the sender opens them."""

    id: str
    name: str
    kind: DestinationKind
    events: tuple[str, ...]  #: patterns of event types, such as `package.*`
    state: DestinationState = DestinationState.ACTIVE
    # Webhooks
    format: WebhookFormat = WebhookFormat.STANDARD
    shown_url: str = ""  #: the URL without what could be a secret
    url_sealed: str = ""
    secret_sealed: str = ""
    old_secret_sealed: str = ""  #: still signs until `old_secret_until`
    old_secret_until: int = 0  #: UTC milliseconds
    template: str = ""  #: Jinja2, for the format `template`
    content_type: str = "application/json"  #: of what the template makes
    allow_private: bool = False  #: plain HTTP and private addresses are fine
    # Mail
    address: str = ""
    mode: MailMode = MailMode.IMMEDIATE
    hour: int = 7  #: of the daily digest, in `zone`
    zone: str = "UTC"  #: an IANA name such as Europe/Berlin
    # How it is doing
    failures: int = 0  #: in a row; any success clears it
    failing_since: int = 0  #: UTC milliseconds; 0: it works
    not_before: int = 0  #: UTC milliseconds: nothing is sent before
    last_error: str = ""
    last_success: int = 0  #: UTC milliseconds
    from_seq: int = 0  #: events behind this number are owed to it
    version: int = 1  #: counts the changes by people
    created_at: int = 0
    changed_at: int = 0

    def hears(self, type: str) -> bool:
        """Whether events of this type are for it."""
        return any(matches(pattern, type) for pattern in self.events)


def matches(pattern: str, type: str) -> bool:
    """Whether a pattern names an event type: `*` all, `package.*` all that begin with `package.`."""
    if pattern.endswith("*"):
        return type.startswith(pattern[:-1])
    return pattern == type


def check_events(patterns: Iterable[str]) -> tuple[str, ...]:
    """Return patterns of event types without doubles, in order.

    Raises:
        InvalidInput: There is none, one is not a pattern, or one names no event that exists.
    """
    found = tuple(dict.fromkeys(patterns))
    if not found:
        raise InvalidInput('Name the events, for example "package.*"; "*" is all.')
    if len(found) > _MAX_PATTERNS:
        raise InvalidInput(f"A destination has at most {_MAX_PATTERNS} patterns of events.")
    for pattern in found:
        if not _PATTERN.fullmatch(pattern) or not any(matches(pattern, type) for type in EventType):
            raise InvalidInput(
                f'There is no event "{pattern[:100]}"; events are {", ".join(sorted(EventType))}, and patterns '
                'such as "package.*" or "*".'
            )
    return found
