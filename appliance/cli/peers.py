"""`ods peer`: invite, join, list and remove peers."""

import sys
from typing import Any

import click

from .client import NodeClient, segment
from .command import group
from .confirm import confirm, yes_option
from .options import DURATION, one_line, remote
from .output import Output, moment, upcoming

CLOCK_S = 15  #: a clock that is off by more is shown


@group("peer")
def peer() -> None:
    """Join nodes to each other."""


@peer.command("invite")
@click.option(
    "--expires", type=DURATION, default="24h", show_default=True, help="Its life, such as 30m or 7d."
)
@remote
def invite(client: NodeClient, output: Output, expires: int) -> None:
    """Print an invite: one node can join with it, once. It is a secret."""
    made = client.post("/peers/invites", {"expires_in": expires})
    if output.json:
        output.data(made)
        return
    click.echo(made["invite"])
    output.note(f"For one node, until {moment(made['expires_at'])}. There:  ods peer join INVITE")


@peer.command("invites")
@remote
def invites(client: NodeClient, output: Output) -> None:
    """List invites."""
    found = client.get("/peers/invites")["items"]
    if output.json:
        output.data(found)
        return
    output.table(
        ["id", "made", "by", "expires", "used by"],
        [
            (i["id"], moment(i["created_at"]), i["created_by"], moment(i["expires_at"]), i["used_by"])
            for i in found
        ],
    )


@peer.command("revoke")
@click.argument("id")
@yes_option
@remote
def revoke(client: NodeClient, output: Output, id: str, yes: bool) -> None:
    """Revoke an invite."""
    confirm(f"Revoke the invite {id}?", yes=yes)
    client.delete(f"/peers/invites/{segment(id)}")
    if output.json:
        output.data({"revoked": id})
    else:
        output.line(f"The invite {id} is revoked.")


@peer.command("join")
@click.argument("invite")
@remote
def join(client: NodeClient, output: Output, invite: str) -> None:
    """Register the node with the one that made INVITE; - reads it from standard input."""
    text = one_line(sys.stdin.read()) if invite == "-" else invite
    found = client.post("/peers/join", {"invite": text.strip()})
    if output.json:
        output.data(found)
    else:
        output.line(f"Joined {found['name']} at {found['url']} ({found['state']}).")
        if found["notice"]:
            output.note(found["notice"])


@peer.command("list")
@remote
def list_(client: NodeClient, output: Output) -> None:
    """List peers and how they are doing."""
    found = client.get("/peers")["items"]
    if output.json:
        output.data(found)
        return
    output.table(
        ["name", "url", "state", "health", "stage", "version", "last seen", "strikes", "trouble", "id"],
        [
            (
                p["name"], p["url"], p["state"], _health(p), p["stage"], p["version"], moment(p["last_seen"]),
                p["strikes"], _trouble(p), p["id"],
            )
            for p in found
        ],
        numbers=["strikes"],
    )  # fmt: skip


def _health(found: dict[str, Any]) -> str:
    return "ok" if found["healthy"] else str(found["health"])


def _trouble(found: dict[str, Any]) -> str:
    if found["quarantined_until"]:
        return f"not a source until {moment(found['quarantined_until'])}: {found['last_strike']}"
    if found["set_aside"]:
        first, *others = found["set_aside"]
        more = f" (and {len(others)} more packages)" if others else ""
        until = moment(first["until"])
        return f"not a source of {first['filename']} until {until}: {first['reason']}{more}"
    if found["failures"]:
        since = f" since {moment(found['failing_since'])}" if found["failing_since"] else ""
        return f"{found['health']}{since}: {found['last_error'].rstrip('.')}; next try {upcoming(found['retry_at'])}"
    if abs(found["clock_offset_s"]) > CLOCK_S:
        side = "ahead" if found["clock_offset_s"] > 0 else "behind"
        return f"its clock is {abs(found['clock_offset_s']):.0f} s {side}"
    if found["strikes"] and found["last_strike"]:
        return f"last strike: {found['last_strike']}"
    return str(found["notice"])


@peer.command("remove")
@click.argument("name")
@yes_option
@remote
def remove(client: NodeClient, output: Output, name: str, yes: bool) -> None:
    """End the registration with a peer, by name or id."""
    found = client.get(f"/peers/{segment(name)}")
    confirm(f"End the registration with {found['name']} at {found['url']}?", yes=yes)
    client.delete(f"/peers/{found['id']}")
    if output.json:
        output.data({"removed": found["id"]})
    else:
        output.line(f"{found['name']} is no peer any more.")
