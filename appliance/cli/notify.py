"""`ods notify`: who hears of what happens, and what was delivered."""

import sys
from pathlib import Path
from typing import Any

import click

from .client import NodeClient, segment
from .command import group
from .confirm import confirm, yes_option
from .exits import CommandFailed, ExitCode
from .options import WORD, one_line, remote
from .output import Output, moment

_EVENTS = click.option(
    "--events", "events", multiple=True, metavar="PATTERN",
    help="Type of event such as peer.down, or package.*; may be given several times. Default: all.",
)  # fmt: skip


@group("notify")
def notify() -> None:
    """Webhooks and mail about what happens."""


@notify.command("add")
@click.argument("name")
@click.option("--webhook", "target", metavar="URL", help="Webhook: where to; - reads it from standard input.")
@click.option(
    "--format", "format_", type=click.Choice(["standard", "slack", "teams", "template"]),
    help="Webhook: what the body looks like. Default: standard, signed JSON.",
)  # fmt: skip
@click.option(
    "--template", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Webhook: a Jinja2 file."
)
@click.option("--content-type", help="Webhook: of what the template makes. Default: application/json.")
@click.option("--allow-private", is_flag=True, help="Webhook: plain HTTP and private addresses are fine.")
@click.option("--mail", "address", metavar="ADDRESS", help="Mail to this address.")
@click.option("--daily", is_flag=True, help="Mail: one digest a day.")
@click.option("--hour", type=click.IntRange(0, 23), help="Mail: when the digest comes. Default: 7.")
@click.option("--zone", metavar="ZONE", help="Mail: time zone such as Europe/Berlin. Default: UTC.")
@_EVENTS
@remote
def add(
    client: NodeClient,
    output: Output,
    name: str,
    target: str | None,
    format_: str | None,
    template: Path | None,
    content_type: str | None,
    allow_private: bool,
    address: str | None,
    daily: bool,
    hour: int | None,
    zone: str | None,
    events: tuple[str, ...],
) -> None:
    """Add a webhook (--webhook) or a mailbox (--mail) under NAME."""
    if (target is None) == (address is None):
        raise CommandFailed("Give --webhook for a webhook, or --mail for a mailbox.", ExitCode.USAGE)
    if template is not None and format_ is None:
        format_ = "template"
    given: dict[str, Any] = {
        "url": one_line(sys.stdin.read()) if target == "-" else target,
        "format": format_,
        "template": template.read_text(encoding="utf-8") if template else None,
        "content_type": content_type,
        "allow_private": allow_private or None,
        "address": address,
        "mode": "daily" if daily else None,
        "hour": hour,
        "zone": zone,
        "events": list(events) or None,
    }
    body = {key: value for key, value in given.items() if value is not None}
    made = client.post("/destinations", {"name": name, "kind": "webhook" if target else "mail", **body})
    if output.json:
        output.data(made)
        return
    output.line(f"{made['name']} hears of {', '.join(made['events'])}; id {made['id']}.")
    if made["secret"] and made["format"] in {"standard", "template"}:
        output.line(f"secret: {made['secret']}  (shown only now; the receiver verifies with it)")
    output.note(f"Try it:  ods notify test {made['id']}")


@notify.command("list")
@remote
def list_(client: NodeClient, output: Output) -> None:
    """List destinations and how they are doing."""
    found = client.get("/destinations")["items"]
    if output.json:
        output.data(found)
        return
    output.table(
        ["id", "name", "to", "events", "state", "waiting", "failures", "last success", "trouble"],
        [
            (
                d["id"], d["name"], _to(d), d["events"], d["state"], d["waiting"], d["failures"],
                moment(d["last_success"]), d["last_error"],
            )
            for d in found
        ],
        numbers=["waiting", "failures"],
    )  # fmt: skip


@notify.command("show")
@click.argument("name")
@remote
def show(client: NodeClient, output: Output, name: str) -> None:
    """Show a destination, by name or id."""
    found = _find(client, name)
    if output.json:
        output.data(found)
        return
    times = {"old_secret_until", "failing_since", "last_success", "not_before", "created_at", "changed_at"}
    output.facts(
        (key.replace("_", " "), moment(value) if key in times else value)
        for key, value in found.items()
        if value not in ("", None)
    )


@notify.command("change")
@click.argument("name")
@click.option(
    "--enable/--disable", "enabled", default=None, help="Turn it on or off; on resumes a suspended one."
)
@click.option("--webhook", "target", metavar="URL", help="Another URL; - reads it from standard input.")
@_EVENTS
@remote
def change(
    client: NodeClient,
    output: Output,
    name: str,
    enabled: bool | None,
    target: str | None,
    events: tuple[str, ...],
) -> None:
    """Turn a destination on or off, or change its URL or events."""
    given: dict[str, Any] = {
        "enabled": enabled,
        "url": one_line(sys.stdin.read()) if target == "-" else target,
        "events": list(events) or None,
    }
    body = {key: value for key, value in given.items() if value is not None}
    if not body:
        raise CommandFailed("Give --enable, --disable, --webhook or --events.", ExitCode.USAGE)
    found = _find(client, name)
    changed = client.patch(f"/destinations/{found['id']}", {**body, "version": found["version"]})
    if output.json:
        output.data(changed)
    else:
        output.line(f"{changed['name']} is {changed['state']} and hears of {', '.join(changed['events'])}.")


@notify.command("rotate")
@click.argument("name")
@remote
def rotate(client: NodeClient, output: Output, name: str) -> None:
    """Give a webhook a new secret; for a day both sign."""
    made = client.post(f"/destinations/{_find(client, name)['id']}/rotate")
    if output.json:
        output.data(made)
        return
    click.echo(made["secret"])
    output.note(f"It is shown only now. The old one signs until {moment(made['old_secret_until'])}.")


@notify.command("test")
@click.argument("name")
@remote
def test(client: NodeClient, output: Output, name: str) -> int:
    """Send a test event to a destination and show what it says; ends with 1 if it was not taken."""
    found = _find(client, name)
    result = client.post(f"/destinations/{found['id']}/test")
    if output.json:
        output.data(result)
    elif result["ok"]:
        output.line(
            f"{found['name']} took it in {result['latency_ms']} ms: {result['status']} {result['answer']}"
        )
    else:
        output.line(f"{found['name']} did not take it: {result['error']} {result['answer']}".rstrip())
    return int(ExitCode.OK if result["ok"] else ExitCode.FAILED)


@notify.command("remove")
@click.argument("name")
@yes_option
@remote
def remove(client: NodeClient, output: Output, name: str, yes: bool) -> None:
    """Remove a destination with what is owed to it."""
    found = _find(client, name)
    confirm(f"Remove {found['name']} ({_to(found)}) and what is owed to it?", yes=yes)
    client.delete(f"/destinations/{found['id']}")
    if output.json:
        output.data({"removed": found["id"]})
    else:
        output.line(f"{found['name']} is removed.")


@notify.command("deliveries")
@click.option("--to", "name", type=WORD, metavar="NAME", help="Only to this destination, by name or id.")
@click.option("--state", type=click.Choice(["pending", "delivered", "failed"]), help="Only in this state.")
@click.option("--type", "type_", type=WORD, metavar="TYPE", help="Only of this type of event.")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="At most so many.")
@remote
def deliveries(
    client: NodeClient, output: Output, name: str | None, state: str | None, type_: str | None, limit: int
) -> None:
    """List deliveries, the last changed first."""
    destination = _find(client, name)["id"] if name else None
    query = {"destination": destination, "state": state, "type": type_, "limit": limit}
    found = client.get("/deliveries", **query)["items"]
    if output.json:
        output.data(found)
        return
    output.table(
        ["id", "event", "state", "attempts", "status", "ms", "changed", "due", "error"],
        [
            (
                d["id"], d["type"], d["state"], d["attempts"], d["status"] or "", d["latency_ms"],
                moment(d["updated_at"]), moment(d["due_at"]), d["error"],
            )
            for d in found
        ],
        numbers=["attempts", "status", "ms"],
    )  # fmt: skip


@notify.command("resend")
@click.argument("id")
@remote
def resend(client: NodeClient, output: Output, id: str) -> None:
    """Send a delivery again now, whatever became of it."""
    found = client.post(f"/deliveries/{segment(id)}/resend")
    if output.json:
        output.data(found)
    else:
        output.line(f"{found['id']} is {found['state']}.")


def _find(client: NodeClient, name: str) -> dict[str, Any]:
    """A destination by name or id."""
    destinations: list[dict[str, Any]] = client.get("/destinations")["items"]
    for found in destinations:
        if name in {found["id"], found["name"]}:
            return found
    raise CommandFailed(f'There is no destination "{name}"; see: ods notify list', ExitCode.NOT_FOUND)


def _to(found: dict[str, Any]) -> str:
    return found["address"] or f"{found['format']} {found['url']}"
