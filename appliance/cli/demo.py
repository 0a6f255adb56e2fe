"""`ods demo`: three nodes in a chain on this machine, and a package that goes from the first to the last."""

import contextlib
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn
from urllib.parse import quote

import click
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from .command import command
from .demo_jamf import DemoJamf
from .demo_nodes import USER, DemoNetwork, DemoNode
from .exits import CommandFailed
from .flat_package import build_flat_package
from .options import BYTES
from .output import Output, size, visible
from .packages import check_file
from .tus import Memory, Uploader

NAMES = ("Amsterdam", "Berlin", "Cairo")
_EVERY_S = 0.1
_LONGEST_S = 1800.0


@command("demo")
@click.option(
    "--package",
    "file",
    type=click.Path(exists=True, path_type=Path),
    help="The package to put in. Default: one is built from the files of this Python.",
)
@click.option(
    "--size", "wanted", type=BYTES, default="200MiB", show_default=True, help="Size of the one that is built."
)
@click.option("--jamf", is_flag=True, help="With a fake Jamf Pro, connected to A; in a checkout only.")
@click.option("--exit-when-done", is_flag=True, help="End when every node has the package.")
@click.pass_obj
def demo(output: Output, file: Path | None, wanted: int, jamf: bool, exit_when_done: bool) -> None:
    """Show three nodes: B is registered with A, C with B only; a package put into A arrives at C.

    Everything is on this machine, in a temporary directory that is gone at the end. Ctrl-C ends it.
    """
    if file is not None:
        check_file(file)
    with _signals(), tempfile.TemporaryDirectory(prefix="ods-demo-") as name:
        directory = Path(name)
        with (
            DemoJamf() if jamf else contextlib.nullcontext() as server,
            DemoNetwork(directory / "nodes", NAMES) as network,
        ):
            output.note(f"Starting {', '.join(NAMES)} ...")
            network.start()
            if file is None:
                file = directory / "ODS Demo 1.0.pkg"
                output.note(f"Building a flat package of {size(wanted)} ...")
                build_flat_package(file, size=wanted, name="ODS Demo", version="1.0")
            report = _replicate(output, network.nodes, file, directory)
            if server is not None:
                report["jamf"] = server.show(output, network.nodes, file.name)
            try:
                _tell(output, network, report)
                if server is not None and not output.json:
                    server.tell(output)
                while not exit_when_done:
                    time.sleep(3600)
            except KeyboardInterrupt:
                output.note("")
            output.note("Stopping the nodes ...")


def _replicate(output: Output, nodes: list[DemoNode], file: Path, directory: Path) -> dict[str, Any]:
    """Put the file into the first node and show how it arrives; return the package as the first node shows it."""
    console = output.errors
    table = console.is_terminal and not output.json
    sent = 0

    def progress(done: int) -> None:
        nonlocal sent
        sent = done

    began = time.monotonic()
    uploader = Uploader(
        nodes[0].client,
        file,
        filename=file.name,
        metadata={"stage": "prod", "tags": "demo"},
        memory=Memory(directory / "uploads.json"),
        progress=progress,
        note=output.note,
    )
    id = uploader.run()
    package: dict[str, Any] = nodes[0].client.get(f"/packages/{id}")
    output.note(
        f"{visible(file.name)}: {size(sent)} put into {nodes[0].name} in {time.monotonic() - began:.1f} s."
    )
    began = time.monotonic()
    done: dict[str, float] = {}
    with (
        Live(console=console, refresh_per_second=20, transient=False)
        if table
        else contextlib.nullcontext() as live
    ):
        while len(done) < len(nodes) - 1:
            rows = [_row(node, id, package) for node in nodes[1:]]
            passed = time.monotonic() - began
            for row in rows:
                if row["held"] and row["node"] not in done:
                    done[row["node"]] = passed
                    if live is None:
                        output.note(f"{row['node']} holds it, verified, after {passed:.1f} s.")
            if live is not None:
                live.update(_picture(nodes[0].name, rows, done, package))
            if passed > _LONGEST_S:
                raise CommandFailed(f"The package has not arrived everywhere after {_LONGEST_S:.0f} s.")
            time.sleep(_EVERY_S)
    return {"package": package, "seconds": {name: round(seconds, 2) for name, seconds in done.items()}}


def _row(node: DemoNode, id: str, package: dict[str, Any]) -> dict[str, Any]:
    transfers = node.client.get("/transfers", package=id)["items"]
    transfer = transfers[0] if transfers else None
    known = node.client.get("/packages", q=package["filename"])["items"]
    here = next((item for item in known if item["id"] == id), None)
    held = here is not None and here["presence"] == "held" and here["sha256"] == package["sha256"]
    chunks = transfer["chunks"] if transfer else -(-package["size"] // 1_048_576)
    return {
        "node": node.name,
        "held": held,
        "state": "held" if held else transfer["state"] if transfer else "waiting",
        "chunks": chunks,
        "chunks_done": chunks if held else transfer["chunks_done"] if transfer else 0,
        "rate": transfer["rate"] if transfer else 0.0,
        "sources": ", ".join(source["name"] for source in transfer["sources"]) if transfer else "",
    }


def _picture(
    first: str, rows: list[dict[str, Any]], done: dict[str, float], package: dict[str, Any]
) -> Table:
    table = Table(title=f"{visible(package['filename'])}  {size(package['size'])}", title_justify="left")
    for heading in ("node", "state", "chunks", "", "rate", "from", "after"):
        table.add_column(heading)
    table.add_row(first, "held", "", "", "", "upload", "")
    for row in rows:
        table.add_row(
            row["node"],
            row["state"],
            f"{row['chunks_done']} / {row['chunks']}",
            ProgressBar(
                total=max(1, row["chunks"]), completed=row["chunks_done"] if row["chunks"] else 1, width=30
            ),
            f"{size(row['rate'])}/s",
            row["sources"],
            f"{done[row['node']]:.1f} s" if row["node"] in done else "",
        )
    return table


def _tell(output: Output, network: DemoNetwork, report: dict[str, Any]) -> None:
    filename = report["package"]["filename"]
    if output.json:
        nodes = [{"name": node.name, "url": node.url} for node in network.nodes]
        output.data({**report, "nodes": nodes, "user": USER, "password": network.password})
        return
    output.line("")
    for node in network.nodes:
        output.line(f"{node.name:<10}  {node.url}/ui/  {node.url}/Packages/{quote(filename)}")
    output.line(f"Sign in as {USER} with the password {network.password}. Or in a terminal:")
    output.line(
        f"  ODS_URL={network.nodes[-1].url} ODS_USER={USER} ODS_PASSWORD={network.password} ods status"
    )
    output.line("Ctrl-C ends it.")


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the demo as cleanly as Ctrl-C."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # nohup
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
