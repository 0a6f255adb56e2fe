"""How MDM servers and what is known of them look at a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from .output import Output, moment


def report(output: Output, found: Mapping[str, Any]) -> None:
    """A check, line by line: what fails and is needed is marked, and says what to do."""
    output.table(
        ["", "what", "found, or to do"],
        [(_mark(line), line["what"], _detail(line)) for line in found["lines"]],
    )


def _mark(line: Mapping[str, Any]) -> str:
    if line["ok"]:
        return "ok"
    return "FAILS" if line["needed"] else "no"


def _detail(line: Mapping[str, Any]) -> str:
    text = str(line["detail"])
    if line["privilege"] and line["privilege"] not in text:
        text = f'{text} Missing privilege: "{line["privilege"]}".'.strip()
    if not line["ok"] and not line["needed"]:
        text = f"{text} (not needed with these settings)".strip()
    return text


def failing(found: Mapping[str, Any]) -> list[str]:
    """What fails and is needed."""
    return [line["what"] for line in found["lines"] if line["needed"] and not line["ok"]]


def servers(output: Output, found: Sequence[Mapping[str, Any]]) -> None:
    """A list of servers."""
    output.table(
        ["name", "kind", "state", "last look", "last webhook", "reason", "id"],
        [
            (
                one["name"], one["kind"], one["state"], moment(one["health"].get("last_poll_at")),
                moment(one["health"].get("last_hook_at")), one["reason"], one["id"],
            )
            for one in found
        ],
    )  # fmt: skip


def server(output: Output, one: Mapping[str, Any]) -> None:
    """One server with all its fields."""
    facts: list[tuple[str, object]] = [
        (name, one[name]) for name in ("name", "kind", "id", "state", "reason", "enabled", "revision")
    ]
    facts.append(("webhooks to", one["hook_path"]))
    for section in ("settings", "intake", "mirror", "points", "webhooks"):
        facts += [(f"{section}.{name}", _short(value)) for name, value in one[section].items()]
    for name, value in sorted(one["health"].items()):
        shown = moment(value) if name.endswith(("_at", "_until")) else _short(value)
        facts.append((name.replace("_", " "), shown))
    output.facts(facts)


def _short(value: Any) -> object:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(str(_short(item)) for item in value)
    return value
