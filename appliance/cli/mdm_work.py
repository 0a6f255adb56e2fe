"""What is done with a connected MDM server from the command line: sync, pause, webhooks, and what is known of it."""

from typing import Any

import click

from . import mdm_output
from .client import NodeClient, segment
from .command import command
from .confirm import confirm, yes_option
from .exits import CommandFailed
from .options import DURATION, WORD, remote
from .output import Output, moment


@command("sync")
@click.argument("name")
@click.option("--verify", is_flag=True, help="Check the hashes of every record again.")
@click.option("--wait", is_flag=True, help="Wait until it is done.")
@remote
def sync(client: NodeClient, output: Output, name: str, verify: bool, wait: bool) -> None:
    """Bring a server and the network into line now."""
    job = client.post(f"{server_path(name)}/sync", {"verify": verify})["job"]
    if wait:
        job = client.wait_for_job(job["id"])
    if output.json:
        output.data(job)
    else:
        output.line(
            "The sync is done."
            if job["state"] == "done"
            else f"The sync is {job['state']} (job {job['id']})."
        )
    if wait and job["state"] != "done":
        raise CommandFailed(f"The sync ended as {job['state']}: {job['error'] or 'no reason is known'}")


@command("pause")
@click.argument("name")
@click.option("--for", "span", type=DURATION, help="How long, such as 2h. Default: until it is resumed.")
@remote
def pause(client: NodeClient, output: Output, name: str, span: int | None) -> None:
    """Ask nothing of a server for a while."""
    _state(output, client.post(f"{server_path(name)}/pause", {} if span is None else {"seconds": span}))


@command("resume")
@click.argument("name")
@remote
def resume(client: NodeClient, output: Output, name: str) -> None:
    """End a pause."""
    _state(output, client.post(f"{server_path(name)}/resume"))


@command("webhooks")
@click.argument("name")
@click.option("--remove", "removing", is_flag=True, help="Delete our webhooks in the MDM instead.")
@yes_option
@remote
def webhooks(client: NodeClient, output: Output, name: str, removing: bool, yes: bool) -> None:
    """Create or mend our webhooks in the MDM now, and read them back. Needs webhooks.register_at."""
    if not removing:
        report(output, client.post(f"{server_path(name)}/webhooks"))
        return
    confirm(f"Delete the webhooks of ODS at {name}?", yes=yes)
    found = client.delete(f"{server_path(name)}/webhooks")
    if output.json:
        output.data(found)
    else:
        output.line(f"{found['removed']} webhooks are deleted.")


@command("packages")
@click.argument("name")
@click.option(
    "--state", type=WORD, help="Only these: pulled, mirrored, conflict, failed, quarantined, pending, ..."
)
@click.option(
    "--direction", type=click.Choice(["in", "out"]), help="Only what came in, or only what went out."
)
@remote
def packages(client: NodeClient, output: Output, name: str, state: str | None, direction: str | None) -> None:
    """List what came in from a server and what was mirrored to it."""
    rows = list(client.pages(f"{server_path(name)}/packages", state=state, direction=direction))
    columns = ["direction", "state", "file_name", "remote", "ours", "at", "error"]
    _rows(output, rows, columns)


@command("points")
@click.argument("name")
@remote
def points(client: NodeClient, output: Output, name: str) -> None:
    """List the nodes' distribution point records."""
    _rows(
        output,
        client.get(f"{server_path(name)}/points")["items"],
        ["name", "state", "remote", "ours", "at", "error"],
    )


@command("segments")
@click.argument("name")
@remote
def segments(client: NodeClient, output: Output, name: str) -> None:
    """List network segments of the MDM with suggestions; nothing is written."""
    columns = ["name", "start", "end", "distribution_point", "suggestion"]
    _rows(output, client.get(f"{server_path(name)}/segments")["items"], columns)


@command("kinds")
@remote
def kinds(client: NodeClient, output: Output) -> None:
    """List the kinds of server that can be connected, and the driver's own settings of each."""
    found = client.get("/mdm/kinds")["items"]
    if output.json:
        output.data(found)
        return
    rows = [
        (one["kind"], name, field.get("description", ""))
        for one in found
        for name, field in one["settings"].get("properties", {}).items()
    ]
    output.table(["kind", "setting", "what it is"], rows)


def server_path(name: str) -> str:
    """Where the API has a server, by name or id."""
    return f"/mdm/servers/{segment(name)}"


def report(output: Output, found: dict[str, Any]) -> None:
    """Print a check; end with 1 if something that is needed fails."""
    if output.json:
        output.data(found)
    else:
        mdm_output.report(output, found)
    if not found["ok"]:
        raise CommandFailed(f"What is needed fails: {', '.join(mdm_output.failing(found))}.")


def _state(output: Output, found: dict[str, Any]) -> None:
    if output.json:
        output.data(found)
    else:
        until = found["health"].get("paused_until")
        output.line(f"{found['name']} is {found['state']}{f' until {moment(until)}' if until else ''}.")


def _rows(output: Output, rows: list[dict[str, Any]], columns: list[str]) -> None:
    if output.json:
        output.data(rows)
        return
    shown = [[moment(row[name]) if name == "at" else row[name] for name in columns] for row in rows]
    output.table([name.replace("_", " ") for name in columns], shown)


COMMANDS = (sync, pause, resume, webhooks, packages, points, segments, kinds)
