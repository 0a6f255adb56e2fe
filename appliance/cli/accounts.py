"""`ods user` and `ods token`: who may do what."""

import secrets
import sys
from collections.abc import Mapping
from typing import Any

import click

from appliance.service.scopes import AREAS, SCOPES

from .client import NodeClient, segment
from .command import group
from .confirm import confirm, yes_option
from .exits import CommandFailed, ExitCode
from .options import DURATION, one_line, remote
from .output import Output, moment

ROLES = click.Choice(["viewer", "operator", "admin"])
_LIMIT = "A stage that an operator is limited to; may be repeated. Default: all."


@group("user")
def user() -> None:
    """Accounts."""


@user.command("add")
@click.argument("name")
@click.option("--role", type=ROLES, default="viewer", show_default=True)
@click.option("--stage", "stages", multiple=True, help=_LIMIT)
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option("--generate", is_flag=True, help="Make up a password and show it once.")
@remote
def add_user(
    client: NodeClient,
    output: Output,
    name: str,
    role: str,
    stages: tuple[str, ...],
    password_stdin: bool,
    generate: bool,
) -> None:
    """Make an account."""
    password = _new_password(password_stdin, generate)
    made = client.post("/users", {"name": name, "password": password, "role": role, "stages": list(stages)})
    if output.json:
        output.data({**made, **({"password": password} if generate else {})})
        return
    output.line(f"{made['name']} is {_role(made)}.")
    if generate:
        output.line(f"password: {password}  (shown only now)")


@user.command("list")
@remote
def list_users(client: NodeClient, output: Output) -> None:
    """List accounts."""
    found = client.get("/users")["items"]
    if output.json:
        output.data(found)
        return
    output.table(
        ["name", "role", "of", "made", "changed"],
        [
            (
                u["name"],
                "blocked" if u["blocked"] else _role(u),
                "the directory" if u["source"] == "directory" else "this node",
                moment(u["created_at"]),
                moment(u["changed_at"]),
            )
            for u in found
        ],
    )


@user.command("passwd")
@click.argument("name")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option("--generate", is_flag=True, help="Make up a password and show it once.")
@remote
def passwd(client: NodeClient, output: Output, name: str, password_stdin: bool, generate: bool) -> None:
    """Change an account's password."""
    password = _new_password(password_stdin, generate)
    changed = client.patch(f"/users/{segment(name)}", {"password": password})
    if output.json:
        output.data({**changed, **({"password": password} if generate else {})})
        return
    output.line(f"The password of {name} is changed.")
    if generate:
        output.line(f"password: {password}  (shown only now)")


@user.command("role")
@click.argument("name")
@click.argument("role", type=ROLES)
@click.option("--stage", "stages", multiple=True, help=_LIMIT)
@remote
def set_role(client: NodeClient, output: Output, name: str, role: str, stages: tuple[str, ...]) -> None:
    """Change what an account may do."""
    changed = client.patch(f"/users/{segment(name)}", {"role": role, "stages": list(stages)})
    if output.json:
        output.data(changed)
    else:
        output.line(f"{changed['name']} is {_role(changed)}.")


@user.command("remove")
@click.argument("name")
@yes_option
@remote
def remove_user(client: NodeClient, output: Output, name: str, yes: bool) -> None:
    """Delete an account and its tokens."""
    found = client.get(f"/users/{segment(name)}")
    confirm(f"Delete the account {name} ({_role(found)}), its sessions and its tokens?", yes=yes)
    client.delete(f"/users/{segment(name)}")
    if output.json:
        output.data({"removed": name})
    else:
        output.line(f"{name} is removed.")


def _role(account: Mapping[str, Any]) -> str:
    """A role with its limit: "operator of test, dev"."""
    stages = ", ".join(account["stages"])
    return f"{account['role']} of {stages}" if stages else str(account["role"])


def _new_password(from_stdin: bool, generate: bool) -> str:
    if from_stdin and generate:
        raise CommandFailed("--password-stdin and --generate exclude each other.", ExitCode.USAGE)
    if generate:
        return secrets.token_urlsafe(18)
    if from_stdin:
        return one_line(sys.stdin.read())
    if not sys.stdin.isatty():
        raise CommandFailed("Give --password-stdin or --generate.", ExitCode.USAGE)
    password: str = click.prompt("New password", hide_input=True, confirmation_prompt=True, err=True)
    return password


@group("token")
def token() -> None:
    """API tokens."""


@token.command("create")
@click.argument("name")
@click.option("--role", type=ROLES, help="At most your own. Default: your own.")
@click.option("--stage", "stages", multiple=True, help=_LIMIT)
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    metavar="AREA:read|write",
    help=f"What it is good for; without one, all. Areas: {', '.join(AREAS)}.",
)
@click.option("--expires", type=DURATION, default="90d", show_default=True, help="Its life, at most 366d.")
@remote
def create(
    client: NodeClient,
    output: Output,
    name: str,
    role: str | None,
    stages: tuple[str, ...],
    scopes: tuple[str, ...],
    expires: int,
) -> None:
    """Make a token for the account that asks and print it; NAME says what it is for."""
    body = {"name": name, "expires_in": expires, "stages": list(stages), "scopes": list(scopes)}
    body |= {"role": role} if role else {}
    made = client.post("/tokens", body)
    if output.json:
        output.data(made)
        return
    click.echo(made["token"])
    output.note(f"{_role(made)}, until {moment(made['expires_at'])}; id {made['id']}. It is shown only now.")


@token.command("list")
@remote
def list_tokens(client: NodeClient, output: Output) -> None:
    """List tokens: your own, or all as an administrator."""
    found = client.get("/tokens")["items"]
    if output.json:
        output.data(found)
        return
    output.table(
        ["id", "name", "account", "role", "scopes", "expires", "last used", "from"],
        [
            (
                t["id"], t["name"], t["account"], _role(t), t["scopes"], moment(t["expires_at"]),
                moment(t["last_used"]), t["last_used_from"],
            )
            for t in found
        ],
    )  # fmt: skip


@token.command("revoke")
@click.argument("id")
@yes_option
@remote
def revoke(client: NodeClient, output: Output, id: str, yes: bool) -> None:
    """Revoke a token by its id."""
    confirm(f"Revoke the token {id}? Whatever uses it is refused from now on.", yes=yes)
    client.delete(f"/tokens/{segment(id)}")
    if output.json:
        output.data({"revoked": id})
    else:
        output.line(f"The token {id} is revoked.")
