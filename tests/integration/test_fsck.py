"""fsck against the files of a real node that somebody has damaged."""

import asyncio
import contextlib
import errno
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from appliance.cli.exits import ExitCode
from appliance.cli.main import run
from appliance.store.blobs import BlobStore
from appliance.store.layout import Layout
from appliance.store.opening import open_store

from .test_cli import ODS, PASSWORD, Node, plain_environment, started

NAMES = ("good.pkg", "gone.pkg", "flipped.pkg", "short.pkg", "unlinked.pkg", "swapped.pkg")
SIZE = 1_500_000


def check(node: Node, *arguments: str, **environment: str) -> tuple[int, Any]:
    """Run fsck as a process: the lock on the data directory lives as long as that."""
    ended = subprocess.run(
        [*ODS, "fsck", "--json", "--data-dir", str(node.data), *arguments],
        env={**plain_environment(node.directory), **environment}, cwd=node.directory,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in ended.stderr
    return ended.returncode, json.loads(ended.stdout) if ended.stdout else ended.stderr


def fill(node: Node, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    for name in [name for name in os.environ if name.startswith("ODS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(directory))
    for name, value in (("ODS_URL", node.url), ("ODS_USER", "admin"), ("ODS_PASSWORD", PASSWORD)):
        monkeypatch.setenv(name, value)
    for name in NAMES:
        (directory / name).write_bytes(os.urandom(SIZE))
    assert run(["package", "add", *(str(directory / name) for name in NAMES)]) == 0


def kinds(report: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for problem in report["problems"]:
        found.setdefault(problem["kind"], []).append(problem["subject"])
    return found


def damage(layout: Layout) -> dict[str, list[str]]:
    """Do what disks and people do; return what fsck must say without reading bytes."""

    def blob(name: str) -> Path:
        inode = (layout.packages / name).stat().st_ino
        return next(
            path for path in layout.blobs.rglob("*") if path.is_file() and path.stat().st_ino == inode
        )

    blob("gone.pkg").unlink()
    with blob("flipped.pkg").open("r+b") as file:
        file.seek(SIZE // 2)
        byte = file.read(1)[0]
        file.seek(SIZE // 2)
        file.write(bytes([byte ^ 1]))
    short = blob("short.pkg")
    os.truncate(short, SIZE - 1)
    (layout.packages / "unlinked.pkg").unlink()
    (layout.packages / "swapped.pkg").unlink()
    (layout.packages / "swapped.pkg").write_bytes(b"\0" * SIZE)
    swapped = layout.packages / "swapped.pkg"
    os.link(swapped, layout.packages / "stranger.pkg")
    stray = layout.blob("0" * 64)
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"stray")
    layout.partial("old-transfer").write_bytes(b"x")
    layout.chunk_map("old-transfer").write_bytes(b"x")
    layout.upload("f" * 32).write_bytes(b"x")
    (layout.identity / "node.key").chmod(0o644)
    return {
        "blob_missing": ["gone.pkg"],
        "blob_damaged": ["short.pkg"],
        "link_missing": ["unlinked.pkg"],
        "link_orphan": ["public/Packages/stranger.pkg"],
        "blob_orphan": ["blobs/00/" + "0" * 64],
        "partial_orphan": ["partial/old-transfer", "partial/old-transfer.map"],
        "upload_orphan": ["uploads/" + "f" * 32],
        "identity_open": ["identity/node.key"],
    }


def test_damage_is_found_and_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with started(tmp_path / "node") as node:
        fill(node, monkeypatch, tmp_path)
        code, report = check(node, "--read-data")
        assert (code, report["problems"], report["node_running"]) == (0, [], True)
        assert (report["packages"], report["blobs"], report["bytes_read"]) == (6, 6, 6 * SIZE)
        code, message = check(node, "--repair")
        assert (code, "stop it" in message) == (ExitCode.USAGE, True)
        node.stop()

        expected = damage(Layout(node.data))
        code, report = check(node)
        assert (code, report["ok"], report["node_running"]) == (ExitCode.FAILED, False, False)
        assert kinds(report) == {**expected, "link_wrong": ["swapped.pkg"]}
        before = sorted(path for path in node.data.rglob("*") if "ods.sqlite3" not in path.name)
        assert check(node)[1] == report, "looking changes nothing"
        assert before == sorted(path for path in node.data.rglob("*") if "ods.sqlite3" not in path.name)

        code, report = check(node, "--read-data")
        assert kinds(report)["blob_damaged"] == ["flipped.pkg", "short.pkg"]

        code, report = check(node, "--read-data", "--repair")
        assert (code, report["ok"]) == (ExitCode.FAILED, False), "no other node has what is lost"
        left = {"gone.pkg", "flipped.pkg", "short.pkg"}
        assert {problem["subject"] for problem in report["problems"] if not problem["repaired"]} == left
        code, report = check(node, "--read-data")
        assert (code, report["packages"]) == (ExitCode.FAILED, 3)
        assert {name: set(subjects) for name, subjects in kinds(report).items()} == {
            "set_aside": left - {"gone.pkg"},
            "blob_missing": {"gone.pkg"},
        }, "what is not there is not called set aside"
        assert all("Upload the same file again" in problem["detail"] for problem in report["problems"])
        assert len(list(Layout(node.data).quarantine.iterdir())) == 2, (
            "damaged files are set aside, not deleted"
        )
        assert Layout(node.data).blob("0" * 64).exists(), "a peer may have the record that names it"

        node.start()
        for name in ("good.pkg", "unlinked.pkg", "swapped.pkg"):
            assert run(["package", "verify", name, "--against", str(tmp_path / name)]) == 0
        for name in ("gone.pkg", "flipped.pkg", "short.pkg"):
            assert run(["package", "verify", name]) in {ExitCode.TRY_LATER, ExitCode.NOT_FOUND}
        assert run(["package", "add", str(tmp_path / "gone.pkg"), "--replace"]) == 0
        assert run(["package", "verify", "gone.pkg"]) == 0


def test_a_database_that_knows_no_package_costs_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(tmp_path / "node") as node:
        fill(node, monkeypatch, tmp_path)
        node.stop()
        layout = Layout(node.data)
        layout.partial("under-way").write_bytes(b"x")
        for path in node.data.glob("ods.sqlite3*"):
            path.unlink()
        asyncio.run(open_and_close(node.data))
        before = files(node.data)
        code, report = check(node, "--repair")
        assert (code, report["ok"]) == (ExitCode.FAILED, False)
        [told] = [each for each in report["problems"] if each["kind"] == "database_empty"]
        assert "ods import" in told["detail"]
        assert all(not problem["repaired"] for problem in report["problems"])
        assert files(node.data) == before


async def open_and_close(data: Path) -> None:
    """Make an empty database."""
    await (await open_store("", data)).close()


def files(data: Path) -> list[Path]:
    return sorted(path for path in data.rglob("*") if "ods.sqlite3" not in path.name)


def test_a_public_file_that_is_a_copy_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with started(tmp_path / "node") as node:
        fill(node, monkeypatch, tmp_path)
        node.stop()
        for name in NAMES:
            public = Layout(node.data).packages / name
            data = public.read_bytes()
            public.unlink()
            public.write_bytes(data)
        code, report = check(node)
        assert (code, kinds(report)) == (ExitCode.FAILED, {"link_copy": sorted(NAMES)})
        assert {problem["detail"] for problem in report["problems"]} == {
            "the public file is a copy, not a link"
        }
        node.start()
        assert check(node)[1]["problems"] == []


def test_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with started(tmp_path / "node", ODS_PORTABLE="1") as node:
        fill(node, monkeypatch, tmp_path)
        node.stop()
        assert check(node, "--read-data", ODS_PORTABLE="1")[1]["problems"] == []
        (Layout(node.data).packages / "swapped.pkg").write_bytes(b"\0" * SIZE)
        assert check(node, ODS_PORTABLE="1")[0] == 0, "the same size: only reading finds it"
        code, report = check(node, "--read-data", "--repair", ODS_PORTABLE="1")
        assert (code, kinds(report)) == (0, {"link_wrong": ["swapped.pkg"]})
        assert (Layout(node.data).packages / "swapped.pkg").read_bytes() == (
            tmp_path / "swapped.pkg"
        ).read_bytes()


def test_what_cannot_be_mended_is_told_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(tmp_path / "node") as node:
        fill(node, monkeypatch, tmp_path)
        node.stop()
        layout = Layout(node.data)
        expected = damage(layout)
        stray = layout.packages / "stranger.pkg"
        # Nothing takes their places, not even for root.
        monkeypatch.setattr("appliance.cli.moving.lock_directory", lambda _: None)
        monkeypatch.setattr(BlobStore, "quarantine", refused)
        monkeypatch.setattr(BlobStore, "publish", refused)
        monkeypatch.setattr("appliance.service.fsck.remove", refused)
        capsys_path = tmp_path / "report.json"
        with capsys_path.open("w") as out, contextlib.redirect_stdout(out):
            code = run(["fsck", "--json", "--read-data", "--repair", "--data-dir", str(node.data)])
        report = json.loads(capsys_path.read_text())
        assert code == ExitCode.FAILED
        left = {
            problem["subject"]: problem["detail"] for problem in report["problems"] if not problem["repaired"]
        }
        for kind in ("link_orphan", "partial_orphan", "upload_orphan", "link_missing", "blob_damaged"):
            for subject in expected[kind]:
                assert "could not be mended" in left[subject], subject
        assert stray.exists()
        assert "set aside" not in left["short.pkg"]


def refused(*_: object) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


def test_lost_keys_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with started(tmp_path / "node") as node:
        node.stop()
        layout = Layout(node.data)
        assert check(node)[0] == 0
        key, box = layout.identity / "node.key", layout.identity / "secrets.key"
        key.rename(tmp_path / "node.key")
        for _ in range(2):  # the first one did not make one
            code, report = check(node)
            assert (code, kinds(report)) == (ExitCode.FAILED, {"identity_lost": ["identity/node.key"]})
            assert "Restore the directory identity" in report["problems"][0]["detail"]
        key.write_text("no key")
        key.chmod(0o600)
        assert kinds(check(node)[1]) == {"identity_lost": ["identity/node.key"]}
        (tmp_path / "node.key").rename(key)
        whole = box.read_bytes()
        box.write_bytes(b"")
        assert kinds(check(node)[1]) == {"identity_lost": ["identity/secrets.key"]}
        box.write_bytes(whole)
        assert check(node)[0] == 0
