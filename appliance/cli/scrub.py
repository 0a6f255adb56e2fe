"""`ods scrub`: have every file of a node read and compared with its SHA-256."""

import time
from typing import Any

import click

from .client import NodeClient
from .command import command
from .exits import CommandFailed, ExitCode
from .options import DURATION, remote
from .output import Output, moment, size

_POLL_S = 0.5


@command("scrub")
@click.option("--now", is_flag=True, help="Verify every file now.")
@click.option("--wait", is_flag=True, help="With --now: wait until every file is verified.")
@click.option("--timeout", type=DURATION, default="7d", show_default=True, help="How long --wait waits.")
@remote
def scrub(client: NodeClient, output: Output, now: bool, wait: bool, timeout: int) -> int:
    """Show how far the node is with verifying its files; exit code 1 if one is damaged and not repaired.

    Every file is read within scrub.days. A damaged one is not served; ODS fetches its damaged chunks from other nodes.
    """
    if wait and not now:
        raise CommandFailed("--wait goes with --now.", ExitCode.USAGE)
    found = client.post("/scrub") if now else client.get("/scrub")
    if wait:
        found = _wait(client, output, found["requested_at"], time.monotonic() + timeout)
    if output.json:
        output.data(found)
    else:
        _show(output, found)
    return ExitCode.FAILED if found["damaged"] else ExitCode.OK


def _wait(client: NodeClient, output: Output, since: str, deadline: float) -> Any:
    said = ""
    while True:
        found = client.get("/scrub")
        if found["current"] is None and found["last"] and found["last"]["ended_at"] >= since:
            return found
        if time.monotonic() > deadline:
            raise CommandFailed(
                f"{found['due_files']} files are not verified yet.", ExitCode.TRY_LATER, {"scrub": found}
            )
        if found["state"] != said:
            said = found["state"]
            output.note(f"{said}: {found['reason']}")
        time.sleep(_POLL_S)


def _show(output: Output, found: dict[str, Any]) -> None:
    current, last = found["current"], found["last"]
    output.facts(
        [
            ("State", f"{found['state']}. {found['reason']}"),
            ("Files", f"{found['files']}, {size(found['bytes'])}"),
            ("To be read", f"{found['due_files']}, {size(found['due_bytes'])}"),
            ("This scrub", f"{current['files']} files, {size(current['bytes'])}" if current else "-"),
            (
                "Last complete",
                f"{moment(last['ended_at'])}: {last['files']} files, {last['damaged']} damaged"
                if last
                else "never",
            ),
            ("Longest unverified", moment(found["oldest_at"]) if found["files"] else "-"),
            ("Damaged now", found["damaged"]),
            ("Repaired", f"{found['repaired']} in the last 90 days"),
        ]
    )
