"""`ods audit`: who did what."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from .client import NodeClient
from .command import group
from .exits import CommandFailed, ExitCode
from .options import WORD, remote
from .output import Output, moment


def _filters(function: Callable[..., Any]) -> Callable[..., Any]:
    function = click.option("--actor", type=WORD, help="Only what this account, node:<id> or system did.")(
        function
    )
    function = click.option(
        "--subject", type=WORD, help="Only about this: a package id, a node id, an account."
    )(function)
    function = click.option(
        "--from", "start", type=WORD, help="From this day or time on, such as 2026-07-23."
    )(function)
    function = click.option(
        "--until", "end", type=WORD, help="Until the end of this day, or before this time."
    )(function)
    function = click.option("--zone", default="UTC", show_default=True, help="The time zone of these.")(
        function
    )
    return click.option("--type", type=WORD, help="Only this event, such as package.withdrawn or package.*")(
        function
    )


@group("audit")
def audit() -> None:
    """The audit log: who did what, when and from where."""


@audit.command("list")
@_filters
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True)
@remote
def list_(client: NodeClient, output: Output, limit: int, **given: str | None) -> None:
    """List the newest events."""
    found = client.get("/events", limit=limit, **given)["items"]
    if output.json:
        output.data(found)
        return
    output.table(
        ["number", "when", "event", "who", "from", "about", "details"],
        [
            (
                e["seq"], moment(e["at"]), e["type"], e["actor"], e["data"].pop("address", ""),
                e["data"].pop("filename", e["subject"]), json.dumps(e["data"], ensure_ascii=False) if e["data"] else "",
            )
            for e in found
        ],
        numbers=["number"],
    )  # fmt: skip


@audit.command("export")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@_filters
@remote
def export(client: NodeClient, output: Output, file: Path, **given: str | None) -> None:
    """Write every event that is kept, or those that fit, to FILE as CSV, oldest first."""
    query = {name: value for name, value in given.items() if value}
    blocks = client.read("/events.csv", media="text/csv", **query)
    try:
        with file.open("xb") as stream:
            for block in blocks:
                stream.write(block)
    except FileExistsError as exc:
        raise CommandFailed(f"{file} exists; it is not overwritten.", ExitCode.CONFLICT) from exc
    if output.json:
        output.data({"file": str(file)})
    else:
        output.line(f"The audit log is in {file}.")
