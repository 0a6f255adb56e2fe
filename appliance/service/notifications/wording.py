"""Events in words: a title for people, and the facts below it."""

from collections.abc import Mapping
from typing import Any

from appliance.domain.destination import TEST_EVENT
from appliance.domain.event import Event, EventType
from appliance.jobs.supervisor import WHAT_HAPPENED

MAX_TITLE = 200
MAX_FACT = 500
_MAX_FACTS = 12

_TITLES: Mapping[str, str] = {
    EventType.PACKAGE_PUBLISHED: "{filename} was published",
    EventType.PACKAGE_REPLACED: "{filename} was replaced",
    EventType.PACKAGE_CHANGED: "{filename} was changed",
    EventType.PACKAGE_WITHDRAWN: "{filename} was withdrawn",
    EventType.PACKAGE_RESTORED: "An earlier version of {filename} was restored",
    EventType.PACKAGE_SUPERSEDED: "Another file took the name {filename}",
    EventType.PACKAGE_REINSTATED: "The replacement of {filename} was put back",
    EventType.PACKAGE_ARRIVED: "{filename} arrived",
    EventType.PACKAGE_RELEASED: "{filename} left this node",
    EventType.PACKAGE_DAMAGED: "{filename} is damaged",
    EventType.PACKAGE_REPAIRED: "{filename} is repaired",
    EventType.PACKAGE_REPLICATED: "{filename} is on every node that takes it",
    EventType.REPLICATION_STUCK: "{count} packages are stuck on their way to this node",
    EventType.REPLICATION_RECOVERED: "All packages move again",
    EventType.TRANSFER_FAILED: "The transfer of {filename} failed",
    EventType.TRANSFER_STALLED: "The transfer of {filename} stopped for now",
    EventType.PEER_INVITED: "A peer was invited",
    EventType.PEER_JOINED: "{name} joined",
    EventType.PEER_LEFT: "{name} left",
    EventType.PEER_DOWN: "{name} does not answer",
    EventType.PEER_UP: "{name} answers again",
    EventType.PEER_STRUCK: "{name} misbehaved",
    EventType.PEER_CLOCK: "The clock of {name} differs by {offset_s} s",
    EventType.TASK_FAILED: f"The background task {{task}} {WHAT_HAPPENED}",
    EventType.NODE_REMOVED: "{name} was removed from the network",
    EventType.NODE_ROLLED_BACK: "The database of this node was older than what its peers have",
    EventType.NODE_TWIN_DETECTED: "Another copy of this node is running",
    EventType.NODE_STARTED: "The node started",
    EventType.NODE_STOPPED: "The node stopped",
    EventType.SCRUB_DAMAGE: "A scrub found {damaged} damaged files",
    EventType.DISK_LOW: "Disk space is low",
    EventType.DISK_RECOVERED: "There is enough disk space again",
    EventType.CERTIFICATE_EXPIRING: "The TLS certificate expires in {days} days",
    EventType.CERTIFICATE_REFUSED: "The new TLS certificate can't be used",
    EventType.ACCOUNT_CHANGED: "Account {subject}: {change}",
    EventType.TOKEN_CREATED: "An API token was made",
    EventType.TOKEN_REVOKED: "An API token was revoked",
    EventType.SIGN_IN_REFUSED: "A sign-in as {subject} was refused",
    EventType.SIGN_IN_LOCKED: "Sign-ins as {subject} have to wait",
    EventType.DESTINATION_ADDED: "Destination {name} was added",
    EventType.DESTINATION_CHANGED: "Destination {name} was changed",
    EventType.DESTINATION_REMOVED: "Destination {name} was removed",
    EventType.DESTINATION_SUSPENDED: "Destination {name} is suspended",
    EventType.DESTINATION_RESUMED: "Destination {name} is sent to again",
    TEST_EVENT: "This is a test",
}


def title_of(event: Event) -> str:
    """One line that says what happened; control characters are gone."""
    known = {name: value for name, value in event.data.items() if isinstance(value, str | int)}
    pattern = _TITLES.get(event.type, "{type}: {subject}")
    words = _Words({"subject": event.subject, "type": event.type, **known})
    return one_line(pattern.format_map(words), MAX_TITLE)


def facts_of(event: Event) -> list[tuple[str, str]]:
    """What else is known, as short pairs of name and text."""
    found = [("event", event.type)]
    if event.subject:
        found.append(("subject", one_line(event.subject, MAX_FACT)))
    found.append(("by", one_line(event.actor, MAX_FACT)))
    for name, value in list(event.data.items())[:_MAX_FACTS]:
        text = _text(value)
        if text:
            found.append((one_line(str(name), 60), text))
    return found


def one_line(text: str, limit: int) -> str:
    """A text on one line of at most so many characters, without anything that a terminal or header would obey."""
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str | int | float):
        return one_line(str(value), MAX_FACT)
    if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        return one_line(", ".join(value), MAX_FACT)
    if isinstance(value, Mapping):
        return one_line(
            "; ".join(f"{key}: {_text(inner)}" for key, inner in value.items() if inner), MAX_FACT
        )
    return ""


class _Words(dict[str, Any]):
    """Words of a title; one that is missing is left out."""

    def __missing__(self, key: str) -> str:
        return "a package" if key == "filename" else str(self.get("subject", ""))
