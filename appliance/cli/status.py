"""`ods status`: a node at one glance."""

from typing import Any

from .client import NodeClient
from .command import command
from .exits import ExitCode
from .options import remote
from .output import Output, moment, size, span, upcoming

_RUNNING = ("pending", "fetching", "verifying", "stalled")


@command("status")
@remote
def status(client: NodeClient, output: Output) -> int:
    """Show a node at one glance; exit code 75 if it is not ready."""
    about, system, ready = client.get("/about"), client.get("/system"), client.ready()
    peers = client.get("/peers")["items"]
    transfers = [t for state in (*_RUNNING, "failed") for t in client.get("/transfers", state=state)["items"]]
    code = ExitCode.OK if ready["status"] == "ready" else ExitCode.TRY_LATER
    if output.json:
        output.data(
            {"about": about, "system": system, "ready": ready, "peers": peers, "transfers": transfers}
        )
        return code
    disk, counts = system["disk"], system["counts"]
    output.facts(
        [
            ("Node", f"{about['name']}  {about['url']}  (ods {about['version']}, stage {about['stage']})"),
            ("Id", about["node_id"]),
            ("Signed in", f"{about['account']} ({about['role']})"),
            ("State", _state(ready)),
            ("Up for", span(system["uptime_s"])),
            ("Packages", f"{counts['held']} of {counts['packages']} here, {size(disk['used_by_packages'])}"),
            (
                "Disk",
                f"{size(disk['free'])} of {size(disk['total'])} free; {size(disk['floor'])} have to stay free",
            ),
            ("Earlier versions", _trash(counts["versions"], disk["trash"])),
            ("Unfinished uploads", size(disk["uploads"])),
            ("Memory", size(system["memory"]["rss"])),
            ("Database", system["database"]),
            ("Peers", _peers(peers)),
            (
                "Jobs",
                f"{counts['jobs_running']} running, {counts['jobs_waiting']} waiting, {counts['jobs_failed']} failed",
            ),
        ]
    )
    if transfers:
        output.line("")
        output.table(
            ["coming", "state", "done", "rate", "next try", "error"],
            [
                (
                    t["filename"],
                    t["state"],
                    _share(t),
                    f"{size(t['rate'])}/s",
                    upcoming(t["retry_at"]),
                    t["error"],
                )
                for t in transfers
            ],
            numbers=["done", "rate"],
        )
    return code


def _trash(versions: int | None, used: int) -> str:
    return "unknown" if versions is None else f"{versions}, {size(used)}"


def _state(ready: dict[str, Any]) -> str:
    faults = [check["reason"] for check in ready["checks"].values() if not check["ok"]]
    return " ".join([ready["status"], *faults, *ready["warnings"]])


def _peers(peers: list[dict[str, Any]]) -> str:
    wrong = [
        f"{p['name']}: {p['health']}" + (f" since {moment(p['failing_since'])}" if p["failing_since"] else "")
        for p in peers
        if not p["healthy"]
    ]
    return "; ".join([f"{len(peers) - len(wrong)} of {len(peers)} healthy", *wrong])


def _share(transfer: dict[str, Any]) -> str:
    return f"{100 * transfer['bytes_done'] // transfer['size']} %" if transfer["size"] else "0 %"
