"""`ods package`: put packages in, look at them, change, withdraw and restore them, check them."""

import hashlib
import shlex
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from appliance.domain.names import check_filename, package_id
from appliance.domain.package import Effect, Presence

from .client import NodeClient, segment
from .command import group
from .confirm import confirm, yes_option
from .exits import CommandFailed, ExitCode
from .options import DURATION, WORD, remote
from .output import Output, moment, size, upcoming, visible
from .tus import Memory, Uploader, state_path
from .waiting import wait_for_all

_NOTES: dict[str, str] = {
    Effect.UNCHANGED: "This exact file is already here.",
    Effect.REPAIRED: "The file was damaged here and is repaired.",
}


@group("package")
def package() -> None:
    """Put packages in, look at them, change, withdraw and restore them."""


@package.command("add")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--name", metavar="FILENAME", help="Name at the node, if not the file's own; for one file.")
@click.option("--stage", help="How far it may go: a stage of the network. Default: the node's setting.")
@click.option("--tag", "tags", multiple=True, help="A tag; may be given several times.")
@click.option("--notes", default="", help="Notes for people.")
@click.option("--replace", is_flag=True, help="Replace the package that has this name.")
@click.option("--revision", type=int, help="Replace it only if it is at this revision; for one file.")
@click.option("--allow-empty", is_flag=True, help="Upload files without bytes too.")
@click.option(
    "--sha256", default="", metavar="HEX", help="Refuse the file if it is not this one; for one file."
)
@click.option("--wait", is_flag=True, help="Wait until every node that admits it holds it.")
@click.option("--timeout", type=DURATION, default="24h", show_default=True, help="How long --wait waits.")
@remote
def add(
    client: NodeClient,
    output: Output,
    files: tuple[Path, ...],
    name: str | None,
    stage: str | None,
    tags: tuple[str, ...],
    notes: str,
    replace: bool,
    revision: int | None,
    allow_empty: bool,
    sha256: str,
    wait: bool,
    timeout: int,
) -> None:
    """Upload FILES.

    An upload that was cut off or stopped goes on where it was when the same command is run again. Every file is
    compared by SHA-256 with what the node has taken. A file that is there already is no error.
    """
    if len(files) > 1 and (name or sha256 or revision is not None):
        raise CommandFailed("--name, --sha256 and --revision are for one file.", ExitCode.USAGE)
    if name == "":
        raise CommandFailed("The name is empty; leave --name out for the file's own.", ExitCode.USAGE)
    if stage == "":  # a script's empty variable must not mean every node
        raise CommandFailed("The stage is empty; leave --stage out for the node's default.", ExitCode.USAGE)
    names = [check_filename(name or path.name) for path in files]
    for path in files:
        check_file(path, allow_empty=allow_empty)
    _refuse_doubles(files, names)
    metadata = {
        "stage": stage or "",
        "tags": ",".join(tags),
        "notes": notes,
        "replace": "true" if replace else "",
        "allow_empty": "true" if allow_empty else "",
        "sha256": sha256,
    }
    added = []
    for path, filename in zip(files, names, strict=True):
        added.append(_upload(client, output, path, filename, metadata, revision))
        if not output.json:
            output.line(f"{filename}  {size(added[-1]['size'])}  sha256 {added[-1]['sha256']}")
        if added[-1]["notice"]:
            output.note(added[-1]["notice"])
    if wait:
        deadline = time.monotonic() + timeout
        added = [
            {**wait_for_all(client, output, found, deadline), "effect": found["effect"]} for found in added
        ]
    if output.json:
        output.data(added if len(added) > 1 else added[0])


def check_file(path: Path, *, allow_empty: bool = False) -> None:
    """Let a file be uploaded.

    Raises:
        CommandFailed: It is a folder, empty, or none of both; the message says what to do.
    """
    if path.is_dir():
        archive, folder = shlex.quote(f"{path.name}.zip"), shlex.quote(path.name)
        where = "" if str(path.parent) == "." else f" in {path.parent}"
        raise CommandFailed(
            f"{path} is a folder. If it is a bundle, zip it and add that: zip -ry {archive} {folder}{where}",
            ExitCode.USAGE,
        )
    if not path.is_file():
        raise CommandFailed(f"{path} is no regular file.", ExitCode.USAGE)
    if not allow_empty and not path.stat().st_size:
        raise CommandFailed(f"{path} is empty. If you mean an empty file, add --allow-empty.", ExitCode.USAGE)


def _refuse_doubles(files: Sequence[Path], names: Sequence[str]) -> None:
    """Refuse files of which the second would take the place of the first."""
    seen: dict[str, Path] = {}
    for path, filename in zip(files, names, strict=True):
        other = seen.setdefault(package_id(filename), path)
        if other is not path:
            raise CommandFailed(f"{other} and {path} have the same name; add one of them.", ExitCode.USAGE)


def _upload(
    client: NodeClient,
    output: Output,
    path: Path,
    filename: str,
    metadata: dict[str, str],
    revision: int | None,
) -> Any:
    console = output.errors
    bar = None
    if console.is_terminal and not output.json:
        bar = Progress(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True),
            TransferSpeedColumn(), TimeRemainingColumn(), console=console, transient=True,
        )  # fmt: skip
    with bar or nullcontext():
        task = bar.add_task(visible(filename).replace("[", "\\["), total=path.stat().st_size) if bar else None

        def progress(done: int) -> None:
            if bar is not None and task is not None:
                bar.update(task, completed=done)

        uploader = Uploader(
            client,
            path,
            filename=filename,
            metadata=metadata,
            revision=revision,
            memory=Memory(state_path()),
            progress=progress,
            note=bar.console.print if bar else output.note,
        )
        try:
            id = uploader.run()
        except KeyboardInterrupt:
            output.note("Stopped. Run the same command again to go on where it was.")
            raise
        found = client.get(f"/packages/{id}")
        if found["sha256"] != uploader.sha256():
            raise CommandFailed(
                f"The node has other bytes under {filename} (SHA-256 {found['sha256']}) than {path} "
                f"({uploader.sha256()}). Upload it again with --replace.",
                details={"package": found},
            )
    if uploader.effect in _NOTES:
        output.note(f"{filename}: {_NOTES[uploader.effect]}")
    found["effect"] = uploader.effect
    return found


@package.command("list")
@click.option("--query", "-q", type=WORD, help="Part of the file name.")
@click.option("--stage", type=WORD, help="Only this stage.")
@click.option("--tag", type=WORD, help="Only with this tag.")
@click.option(
    "--presence", type=click.Choice([str(one) for one in Presence]), help="Only with this presence here."
)
@click.option("--withdrawn", is_flag=True, help="Withdrawn ones too.")
@remote
def list_(client: NodeClient, output: Output, query: str | None, **filters: Any) -> None:
    """List packages."""
    found = list(client.pages("/packages", q=query, **filters))
    if output.json:
        output.data(found)
        return
    output.table(
        ["name", "size", "stage", "tags", "here", "changed", "sha256"],
        [
            (
                p["filename"],
                size(p["size"]),
                p["stage"],
                p["tags"],
                f"{p['presence']}, no node admits it" if p["notice"] else p["presence"],
                moment(p["changed_at"]),
                p["sha256"],
            )
            for p in found
        ],
        numbers=["size"],
    )


@package.command("show")
@click.argument("name")
@remote
def show(client: NodeClient, output: Output, name: str) -> None:
    """Show one package, by file name or id, with every node that has it or not, and why."""
    found = client.get(f"/packages/{segment(name)}")
    if output.json:
        output.data(found)
        return
    output.facts(
        [
            ("Name", found["filename"]),
            ("Id", found["id"]),
            ("Size", f"{size(found['size'])} ({found['size']} bytes, {found['manifest']['count']} chunks)"),
            ("SHA-1", found["sha1"]),
            ("SHA-256", found["sha256"]),
            ("Stage", found["stage"]),
            ("Tags", found["tags"]),
            ("Notes", found["notes"]),
            ("Uploaded", f"{moment(found['uploaded_at'])} by {found['uploaded_by']}"),
            ("Revision", f"{found['revision']}, {moment(found['changed_at'])}"),
            ("Here", f"{found['presence']}: {found['reason']}" if found["reason"] else found["presence"]),
            *([("Next try", upcoming(found["retry_at"]))] if found["retry_at"] else []),
            ("URL", "" if found["withdrawn"] else found["url"]),
        ]
    )
    rows = [
        (r["name"] or r["node"][:16], r["presence"], r["current"], moment(r["at"]), r["reason"])
        for r in found["replicas"]
    ]
    rows += [(u["name"], "unknown", "", moment(u["since"]), u["reason"]) for u in found["unheard"]]
    if rows:
        output.line("")
        output.table(["node", "presence", "current", "since", "reason"], sorted(rows))
    if found["notice"]:
        output.note(found["notice"])
    if found["withdrawn"]:
        output.note(_how_to_restore(found))


@package.command("change")
@click.argument("name")
@click.option("--stage", help="Promote or demote it.")
@click.option("--tag", "tags", multiple=True, help="Its tags from now on; may be given several times.")
@click.option("--no-tags", is_flag=True, help="Take all tags away.")
@click.option("--notes", help="Notes for people.")
@click.option("--revision", type=int, help="Change it only if it is at this revision.")
@remote
def change(
    client: NodeClient,
    output: Output,
    name: str,
    stage: str | None,
    tags: tuple[str, ...],
    no_tags: bool,
    notes: str | None,
    revision: int | None,
) -> None:
    """Change a package's stage, tags or notes; what is not given stays."""
    if tags and no_tags:
        raise CommandFailed("--tag and --no-tags exclude each other.", ExitCode.USAGE)
    body: dict[str, Any] = {"stage": stage, "notes": notes, "tags": list(tags) if tags or no_tags else None}
    body = {key: value for key, value in body.items() if value is not None}
    if not body:
        raise CommandFailed("Say what to change: --stage, --tag, --no-tags or --notes.", ExitCode.USAGE)
    if revision is not None:
        body["revision"] = revision
    found = client.patch(f"/packages/{segment(name)}", body)
    if output.json:
        output.data(found)
    else:
        output.line(f"{found['filename']}: stage {found['stage']}, tags {', '.join(found['tags']) or '-'}")


@package.command("withdraw")
@click.argument("name")
@click.option("--revision", type=int, help="Withdraw it only if it is at this revision.")
@yes_option
@remote
def withdraw(client: NodeClient, output: Output, name: str, revision: int | None, yes: bool) -> None:
    """Withdraw a package from every node."""
    if not yes:
        seen = client.get(f"/packages/{segment(name)}")
        facts = f"{size(seen['size'])}, stage {seen['stage']}"
        confirm(f"Withdraw {seen['filename']} ({facts}) from every node of the network?")
        revision = (
            seen["revision"] if revision is None else revision
        )  # what was asked about, and nothing newer
    found = client.delete(f"/packages/{segment(name)}", revision=revision)
    if output.json:
        output.data(found)
    else:
        output.line(f"{found['filename']} is withdrawn.")
        output.note(_how_to_restore(found))


def _how_to_restore(found: Any) -> str:
    name = shlex.quote(found["filename"])
    return (
        f"To have it back: ods package restore {name}, while a node keeps a version (ods package versions {name}); "
        "else upload it again."
    )


@package.command("versions")
@click.argument("name")
@remote
def versions(client: NodeClient, output: Output, name: str) -> None:
    """List the versions of a package on this node, and until when each can be restored.

    Other nodes may keep other versions: ask them with --url.
    """
    found = client.get(f"/packages/{segment(name)}/versions")["items"]
    if output.json:
        output.data(found)
        return
    output.table(
        ["sha256", "revision", "size", "stage", "uploaded by", "state", "since", "expires"],
        [
            (
                version["sha256"][:16],
                version["revision"],
                size(version["size"]),
                version["stage"],
                version["uploaded_by"],
                _version_state(version),
                moment(version["at"] or version["uploaded_at"]),
                moment(version["expires_at"]),
            )
            for version in found
        ],
        numbers=["revision", "size"],
    )
    if all(version["current"] for version in found):
        output.note("No earlier version is on this node.")


def _version_state(version: Any) -> str:
    state: str = "current" if version["current"] else version["why"]
    return state if version["here"] else f"{state}, not on this node"


@package.command("restore")
@click.argument("name")
@click.option(
    "--version",
    "wanted",
    default="",
    metavar="VERSION",
    help="A SHA-256, its first six characters or more, or a revision. Default: the newest earlier version.",
)
@click.option("--no-wait", is_flag=True, help="Only begin; do not wait for the result.")
@remote
def restore(client: NodeClient, output: Output, name: str, wanted: str, no_wait: bool) -> None:
    """Restore an earlier version of a package, or a withdrawn package, on every node.

    This node verifies its file first. What the name has now is kept as an earlier version.
    """
    answer = client.post(f"/packages/{segment(name)}/restore", {"version": wanted})
    version, job = answer["version"], answer["job"]
    short = version["sha256"][:16]
    if not no_wait:
        output.note(f"Verifying {visible(version['filename'])}, {size(version['size'])} ...")
        job = client.wait_for_job(job["id"])
        if job["state"] != "done":
            text = job["error"].partition(": ")[2]
            raise CommandFailed(text or f"The job ended as {job['state']}.", details={"job": job})
    if output.json:
        output.data({"job": job, "version": version})
    elif no_wait:
        output.line(f"{version['filename']}: restoring version {short} began (job {job['id']}).")
    else:
        output.line(f"{version['filename']}: restored version {short}.")


@package.command("verify")
@click.argument("name")
@click.option("--no-wait", is_flag=True, help="Only begin; do not wait for the result.")
@click.option(
    "--against",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Compare with this file first.",
)
@remote
def verify(client: NodeClient, output: Output, name: str, no_wait: bool, against: Path | None) -> None:
    """Let the node read a package's file and check it against its hashes."""
    found = client.get(f"/packages/{segment(name)}")
    if against is not None:
        with against.open("rb") as file:
            local = hashlib.file_digest(file, "sha256").hexdigest()
        if local != found["sha256"]:
            raise CommandFailed(f"{against} has the SHA-256 {local}, the package {found['sha256']}.")
    if found["presence"] != "held":
        raise CommandFailed(
            f"{found['filename']} is not at this node: {found['presence']}. {found['reason']}".strip(),
            ExitCode.TRY_LATER if found["presence"] in {"arriving", "waiting"} else ExitCode.NOT_FOUND,
        )
    job = client.post(f"/packages/{found['id']}/verify")["job"]
    if not no_wait:
        job = client.wait_for_job(job["id"])
        if job["state"] != "done":
            raise CommandFailed(job["error"] or f"The check ended as {job['state']}.", details={"job": job})
    if output.json:
        output.data(job)
    else:
        output.line(
            f"{found['filename']}: the check began (job {job['id']})."
            if no_wait
            else f"{found['filename']}: ok"
        )
