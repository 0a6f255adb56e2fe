"""`ods directory`: what is set, and a test that shows each step."""

import sys

import click

from .client import NodeClient
from .command import group
from .exits import CommandFailed, ExitCode
from .options import one_line, remote
from .output import Output, moment


@group("directory")
def directory() -> None:
    """People of an LDAP server or Active Directory."""


@directory.command("show")
@remote
def show(client: NodeClient, output: Output) -> None:
    """Show the servers, how they do, and what groups give."""
    found = client.get("/directory")
    if output.json:
        output.data(found)
        return
    if not found["configured"]:
        output.line("No directory is set (directory.servers).")
        return
    words = {True: "up", False: "down", None: "not asked yet"}
    output.table(
        ["server", "state", "asked", "error"],
        [(s["url"], words[s["healthy"]], moment(s["asked_at"]), s["error"]) for s in found["servers"]],
    )
    output.table(
        ["group", "role", "stages"],
        [(g["group"], g["role"], ", ".join(g["stages"]) or "all") for g in found["groups"]],
    )


@directory.command("test")
@click.argument("name", default="")
@click.option("--password", "ask", is_flag=True, help="Ask for the password of NAME and try it.")
@click.option(
    "--password-stdin", is_flag=True, help="Read the password of NAME from standard input, and try it."
)
@remote
def test(client: NodeClient, output: Output, name: str, ask: bool, password_stdin: bool) -> None:
    """Try every server, and show each step; with NAME also who that is, in which groups, and with what role.

    Exit code 1 if a step fails.
    """
    if (ask or password_stdin) and not name:
        raise CommandFailed("A password needs the NAME that it is of.", ExitCode.USAGE)
    if ask and password_stdin:
        raise CommandFailed("--password and --password-stdin exclude each other.", ExitCode.USAGE)
    password = one_line(sys.stdin.read()) if password_stdin else ""
    if ask:
        password = click.prompt(f"Password of {name}", hide_input=True, err=True)
    found = client.post("/directory/test", {"username": name, "password": password})
    if output.json:
        output.data(found)
    else:
        output.table(
            ["server", "step", "", "what"],
            [(s["server"], s["name"], "ok" if s["ok"] else "FAILED", s["detail"]) for s in found["steps"]],
        )
    if not found["ok"]:
        raise CommandFailed("A step failed.", ExitCode.FAILED)
