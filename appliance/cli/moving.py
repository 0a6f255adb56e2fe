"""Commands on the files of this machine's node: export, import, fsck."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import click

from appliance.domain.errors import InvalidSettings
from appliance.store.filesystem import lock_directory
from appliance.store.layout import Layout
from appliance.store.opening import FILE_NAME, open_store
from appliance.store.ports import Store
from config.settings import Settings

from .command import command
from .exits import CommandFailed, ExitCode
from .options import local
from .output import Output, size, visible

T = TypeVar("T")


@command("export")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@local
@click.pass_obj
def export(output: Output, settings: Settings, file: Path, force: bool) -> None:
    """Write all metadata of the node to FILE, whether it runs or not.

    With the directories identity and blobs of the data directory this is a backup. The file holds password hashes.
    """
    if file.exists() and not file.is_file():
        raise CommandFailed(f"{file} is no regular file; name another one.", ExitCode.USAGE)
    if file.exists() and not force:
        raise CommandFailed(f"{file} exists; --force replaces it.", ExitCode.CONFLICT)
    if not file.absolute().parent.is_dir():
        raise CommandFailed(f"There is no directory {file.absolute().parent}.", ExitCode.USAGE)
    layout = _existing(settings)
    if file.resolve().is_relative_to(layout.root.resolve()):
        raise CommandFailed(
            f"{file} would be in the data directory {layout.root}, which is the node's own; name a file elsewhere.",
            ExitCode.USAGE,
        )
    file = file.resolve()  # a link stays one
    from appliance.store.archive import export_archive  # noqa: PLC0415

    _with_store(settings, layout, lambda store: export_archive(store, file))
    if output.json:
        output.data({"file": str(file), "bytes": file.stat().st_size})
    else:
        output.line(f"{file}: {size(file.stat().st_size)}")


@command("import")
@click.argument("file", type=click.Path(exists=True, path_type=Path, dir_okay=False))
@local
@click.pass_obj
def import_(output: Output, settings: Settings, file: Path) -> None:
    """Fill a new, empty database from FILE that `ods export` wrote; the node must be stopped.

    To move a node from SQLite to MongoDB: export, set database.url, import. Back: the other way round.
    """
    layout = Layout(Path(settings.data_dir).absolute())
    layout.root.mkdir(parents=True, exist_ok=True, mode=0o750)
    lock_directory(layout.root)
    from appliance.store.archive import import_archive  # noqa: PLC0415

    async def fill(store: Store) -> dict[str, int]:
        await import_archive(store, file)
        return {name: await store.count(name) for name in ("packages", "peers", "accounts", "events")}

    counts = _with_store(settings, layout, fill)
    if output.json:
        output.data({"imported": counts})
        return
    output.line(", ".join(f"{count} {name}" for name, count in counts.items()) + " imported.")
    if not (layout.identity / "node.key").exists():
        output.note(
            f"Copy the directory identity of the old node to {layout.identity}; without it the node does not start."
        )


@command("fsck")
@click.option("--read-data", is_flag=True, help="Read every file and compare its SHA-256.")
@click.option("--repair", is_flag=True, help="Repair what can be repaired; the node must be stopped.")
@local
@click.pass_obj
def fsck(output: Output, settings: Settings, read_data: bool, repair: bool) -> int:
    """Check the records, and compare the database with the files; exit code 1 if something is and stays wrong.

    What was damaged is set aside, never deleted, and asked of peers that say they hold it. Records that break
    a rule are removed; look at the clock of the machine before you repair records that are ahead of it.
    """
    from appliance.bootstrap import now_ms  # noqa: PLC0415
    from appliance.peering.identity import Identity  # noqa: PLC0415
    from appliance.service.fsck import ONLINE_GRACE_MS, Fsck, Report  # noqa: PLC0415
    from appliance.service.node_keys import key_faults  # noqa: PLC0415
    from appliance.store.blobs import BlobStore  # noqa: PLC0415

    layout = _existing(settings)
    running = False
    try:
        lock_directory(layout.root)
    except InvalidSettings:
        if repair:
            raise
        running = True

    async def check(store: Store) -> Report:
        identity = None
        with suppress(InvalidSettings):  # the check tells of it
            identity = Identity.load(layout.identity / "node.key")
        blobs = BlobStore(layout, floor_bytes=settings.transfers.min_free)
        check = Fsck(
            store=store,
            layout=layout,
            blobs=blobs,
            now=now_ms,
            identity=identity,
            key_faults=await key_faults(store, layout),
            grace_ms=ONLINE_GRACE_MS if running else 0,
            progress=lambda name: output.note(f"reading {visible(name)}"),
        )
        return await check.run(read_data=read_data, repair=repair)

    report = _with_store(settings, layout, check)
    if output.json:
        output.data(
            {
                "ok": report.ok,
                "node_running": running,
                "packages": report.packages,
                "blobs": report.blobs,
                "bytes_read": report.bytes_read,
                "problems": [asdict(problem) for problem in report.problems],
            }
        )
    else:
        for problem in report.problems:
            done = f" -> {problem.repaired}" if problem.repaired else ""
            output.line(f"{problem.kind}: {problem.subject}: {problem.detail}{done}")
        read = f", {size(report.bytes_read)} read" if read_data else ""
        left = sum(not problem.repaired for problem in report.problems)
        wrong = "nothing is wrong" if not report.problems else f"{len(report.problems)} problems, {left} left"
        output.line(f"{report.packages} packages, {report.blobs} files{read}: {wrong}.")
        if left and not repair:
            output.note("Stop the node and run `ods fsck --repair`.")
    return ExitCode.OK if report.ok else ExitCode.FAILED


def _existing(settings: Settings) -> Layout:
    """The files of a node that has been started or made before.

    Raises:
        CommandFailed: There is none; a mistyped directory must not become a new node.
        KeysMismatch: There is one, and its database is gone.
    """
    from appliance.service.node_keys import refuse_lost_file  # noqa: PLC0415

    layout = Layout(Path(settings.data_dir).absolute())
    if not settings.database.url:
        refuse_lost_file(layout, layout.root / FILE_NAME)
    if not settings.database.url and not (layout.root / FILE_NAME).exists():
        raise CommandFailed(f"There is no node in {layout.root} (data_dir).", ExitCode.NOT_FOUND)
    if not layout.root.is_dir():
        raise CommandFailed(f"There is no directory {layout.root} (data_dir).", ExitCode.NOT_FOUND)
    return layout


def _with_store(settings: Settings, layout: Layout, work: Callable[[Store], Awaitable[T]]) -> T:
    async def run() -> T:
        store = await open_store(settings.database.url, layout.root)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())
