"""`ods mdm`: connect MDM servers such as Jamf Pro, check them, and see how they are doing."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from . import mdm_output
from .client import NodeClient
from .command import group
from .confirm import confirm, yes_option
from .exits import CommandFailed, ExitCode
from .mdm_fields import parse_sets, read_secret
from .mdm_work import COMMANDS, report, server_path
from .options import remote
from .output import Output

F = TypeVar("F", bound=Callable[..., Any])

_SET = click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="KEY=VALUE",
    help="A field, such as intake.poll_s=120, points.username=mac, or one of the driver's own settings. Repeatable.",
)
_CREDENTIALS = (
    click.option("--client-id", metavar="ID", help="Id of an API client."),
    click.option(
        "--client-secret",
        metavar="-",
        help="- reads its secret from standard input. Default: ODS_MDM_SECRET, else ask.",
    ),
    click.option("--username", metavar="NAME", help="A user account, where there is no API client."),
    click.option("--password", metavar="-", help="- reads its password from standard input; as above."),
)


def _credentials(function: F) -> F:
    for option in reversed(_CREDENTIALS):
        function = option(function)
    return function


@group("mdm")
def mdm() -> None:
    """Connect MDM servers such as Jamf Pro."""


@mdm.command("add")
@click.argument("name")
@click.argument("server_url", metavar="[URL]", default="")
@click.option("--kind", default="jamf", show_default=True, help="The driver; `ods mdm kinds` lists them.")
@_credentials
@_SET
@click.option("--force", is_flag=True, help="Connect it although something that is needed fails.")
@remote
def add(
    client: NodeClient, output: Output, name: str, server_url: str, kind: str, force: bool, **given: Any
) -> None:
    """Check the server at URL, show what works line by line, and connect it as NAME."""
    fields = _fields(server_url, **given)
    fields.update(name=fields.get("name", name), kind=kind)
    found = client.post("/mdm/check", fields)
    if not output.json:
        mdm_output.report(output, found)
    _go_on(found, force)
    added = client.post("/mdm/servers", fields)
    if output.json:
        output.data({"check": found, "server": added})
    else:
        output.line(
            f"{added['name']} is connected ({added['id']}). See how it does:  ods mdm show {added['id']}"
        )


@mdm.command("change")
@click.argument("name")
@click.option("--server-url", default="", metavar="URL", help="Where the MDM server is now.")
@_credentials
@_SET
@click.option("--new-hook-secret", metavar="-", help="- reads what proves its webhooks from standard input.")
@remote
def change(client: NodeClient, output: Output, name: str, new_hook_secret: str | None, **given: Any) -> None:
    """Change fields of a server; what is not named stays, secrets too."""
    fields = _fields(given.pop("server_url"), **given)
    if new_hook_secret is not None:
        fields["hook_secret"] = read_secret(
            new_hook_secret, option="--new-hook-secret", what="Secret of webhooks"
        )
    if not fields:
        raise CommandFailed("Nothing to change: give --set, --server-url or credentials.", ExitCode.USAGE)
    changed = client.patch(server_path(name), fields)
    if output.json:
        output.data(changed)
    else:
        output.line(f"{changed['name']} is changed; its revision is {changed['revision']}.")


def _fields(
    server_url: str,
    *,
    client_id: str | None,
    client_secret: str | None,
    username: str | None,
    password: str | None,
    sets: tuple[str, ...],
) -> dict[str, Any]:
    """What the options say, as the API takes it. One way of signing in takes the other's place."""
    fields = parse_sets(sets)
    own: dict[str, Any] = {"url": server_url} if server_url else {}
    if (client_id or client_secret) and (username or password):
        raise CommandFailed("Give an API client or a user account, not both.", ExitCode.USAGE)
    if client_id or client_secret:
        secret = read_secret(client_secret, option="--client-secret", what="Client secret")
        own |= {"client_id": client_id, "client_secret": secret} if client_id else {"client_secret": secret}
        own |= {"username": None, "password": None} if client_id else {}
    if username or password:
        secret = read_secret(password, option="--password", what="Password")
        own |= {"username": username, "password": secret} if username else {"password": secret}
        own |= {"client_id": None, "client_secret": None} if username else {}
    if own:
        fields["settings"] = {**own, **fields.get("settings", {})}
    return fields


def _go_on(found: dict[str, Any], force: bool) -> None:
    """Let go on only if all that is needed works, or somebody wants to all the same."""
    if found["ok"] or force:
        return
    text = f"What is needed fails: {', '.join(mdm_output.failing(found))}."
    if not sys.stdin.isatty():
        raise CommandFailed(f"{text} Mend it, or give --force.", ExitCode.FAILED, {"lines": found["lines"]})
    confirm(f"{text} Connect it all the same?")


@mdm.command("list")
@remote
def list_(client: NodeClient, output: Output) -> None:
    """List MDM servers and how they are doing."""
    found = client.get("/mdm/servers")["items"]
    if output.json:
        output.data(found)
    else:
        mdm_output.servers(output, found)


@mdm.command("show")
@click.argument("name")
@remote
def show(client: NodeClient, output: Output, name: str) -> None:
    """Show one server, by name or id."""
    found = client.get(server_path(name))
    if output.json:
        output.data(found)
    else:
        mdm_output.server(output, found)


@mdm.command("check")
@click.argument("name")
@_SET
@remote
def check(client: NodeClient, output: Output, name: str, sets: tuple[str, ...]) -> None:
    """Say line by line what works at a server and what is missing; with --set, what would. Nothing is changed."""
    report(output, client.post(f"{server_path(name)}/check", parse_sets(sets)))


@mdm.command("remove")
@click.argument("name")
@yes_option
@remote
def remove(client: NodeClient, output: Output, name: str, yes: bool) -> None:
    """Forget a server and all that is known of it. In the MDM nothing changes."""
    found = client.get(server_path(name))
    confirm(f"Forget {found['name']} ({found['kind']}) and all that is known of it?", yes=yes)
    client.delete(server_path(found["id"]))
    if output.json:
        output.data({"removed": found["id"]})
    else:
        output.line(f"{found['name']} is forgotten. What ODS made in the MDM is still there.")


for _command in COMMANDS:
    mdm.add_command(_command)
