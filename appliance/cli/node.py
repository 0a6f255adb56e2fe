"""Commands that are the node: serve, worker, init."""

import contextlib
import json
import signal
from pathlib import Path
from typing import Any

import click

from appliance import log
from config.settings import Settings

from .command import command
from .options import CONFIG, DATA_DIR, read_settings, running
from .output import Output

_AFTER = {
    "identity": "This is a new node now: join its peers again (ods peer join).",
    "empty-database": "Its peers, accounts and connections are gone: join its peers again (ods peer join), or no upload"
    " goes to them. They give back the records that they have; what only this node had must be uploaded again.",
    "secrets-key": "Enter the passwords and secrets of MDM servers and destinations again.",
}


@command("serve")
@CONFIG
@DATA_DIR
@click.option("--host", metavar="ADDRESS", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on.")
@click.option("--url", metavar="URL", help="Base URL under which other nodes call this one.")
@click.option("--name", metavar="NAME", help="The name that people see.")
@click.option("--no-worker", is_flag=True, help="Run no jobs here; `ods worker` does, beside this process.")
@click.pass_obj
def serve(
    output: Output,
    config_file: Path | None,
    data_dir: str | None,
    host: str | None,
    port: int | None,
    url: str | None,
    name: str | None,
    no_worker: bool,
) -> int:
    """Run a node until it is told to stop.

    With --json, logs are JSON lines on standard error, and what is announced is JSON on standard output.
    """
    flags = {
        "data_dir": data_dir,
        "http.host": host,
        "http.port": port,
        "node.url": url,
        "node.name": name,
        "worker.embedded": False if no_worker else None,
        "log.format": "json" if output.json else None,
    }
    return _run(read_settings(config_file, flags, files=True), output, serving=True)


@command("worker")
@running
@click.pass_obj
def worker(output: Output, settings: Settings) -> int:
    """Run only the jobs of a node, beside its serving process."""
    return _run(settings, output, serving=False)


def _run(settings: Settings, output: Output, *, serving: bool) -> int:
    if hasattr(
        signal, "SIGHUP"
    ):  # what is loaded next takes half a second, and it must not kill in it either
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    # The commands that only call a node start in a fraction of the time without these.
    from appliance.bootstrap import build  # noqa: PLC0415
    from appliance.server import serve as run  # noqa: PLC0415

    def announce(line: str) -> None:
        with contextlib.suppress(OSError):  # the disk of standard output may be full, or its reader gone
            click.echo(json.dumps({"announce": line}, ensure_ascii=False) if output.json else line)

    log.configure(format=settings.log.format, level=settings.log.level)
    return run(lambda: build(settings, serving=serving, announce=announce))


@command("init")
@click.option(
    "--new-identity", "new", flag_value="identity", default="", help="node.key is lost: become a new node."
)
@click.option(
    "--new-secrets-key", "new", flag_value="secrets-key", help="secrets.key is lost: make a new one."
)
@click.option(
    "--empty-database",
    "new",
    flag_value="empty-database",
    help="The database is lost: begin with an empty one.",
)
@running
@click.pass_obj
def init(output: Output, settings: Settings, new: str) -> None:
    """Make data directory, keys, database and first account, without starting the node.

    Doing it twice changes nothing. The first account's password is ODS_ADMIN_PASSWORD, or random and shown once.

    A node whose keys or database were lost does not start by itself as another one. If there is no backup, a --new
    option or --empty-database says that this is meant; the node has to be stopped. Files of packages are kept.
    """
    from .preparing import prepare  # noqa: PLC0415

    report: dict[str, Any] = prepare(settings, new=new)
    if output.json:
        output.data(report)
        return
    output.facts(
        [
            ("Data directory", report["data_dir"]),
            ("Node id", report["node_id"]),
            ("Node URL", report["url"]),
            ("Database", report["database"]),
            *([("TLS fingerprint", report["tls_fingerprint"])] if report["tls_fingerprint"] else []),
        ]
    )
    if report["password"]:
        output.line(f"First account:  {report['account']}  password:  {report['password']}  (shown only now)")
    if new:
        output.note(_AFTER[new])
    output.note("Start it with:  ods serve")
