"""What a node answers before its parts are there, over HTTP."""

import asyncio
import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
import tornado.httpserver

from appliance.api import starting as module
from appliance.api.starting import Starting, make_starting_application
from appliance.server import listen
from appliance.store.filesystem import read_at
from appliance.store.layout import Layout
from config.settings import Settings


def ask(root: Path, *paths: str) -> list[httpx.Response]:
    async def script() -> list[httpx.Response]:
        starting = Starting(settings=Settings(), layout=Layout(root))
        server = tornado.httpserver.HTTPServer(make_starting_application(starting))
        sockets = listen("127.0.0.1", 0)
        server.add_sockets(sockets)
        base = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
        try:
            async with httpx.AsyncClient(timeout=10) as client:
                return [await client.get(base + path) for path in paths]
        finally:
            server.stop()
            await server.close_all_connections()

    return asyncio.run(script())


def blob(root: Path, data: bytes) -> Path:
    path = Layout(root).blob(hashlib.sha256(data).hexdigest())
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return path


def test_it_is_not_ready_in_the_form_of_later(tmp_path: Path) -> None:
    (answer,) = ask(tmp_path, "/health/ready")
    assert (answer.status_code, set(answer.json())) == (503, {"status", "checks", "warnings"})
    assert answer.json()["warnings"] == []


@pytest.mark.parametrize("kind", ["pipe", "folder", "link", "missing"])
def test_what_is_no_file_holds_nobody_up(tmp_path: Path, kind: str) -> None:
    packages = Layout(tmp_path).packages
    packages.mkdir(parents=True)
    (packages / "Good.pkg").hardlink_to(blob(tmp_path, b"good"))
    odd = packages / "Odd.pkg"
    if kind == "pipe":
        os.mkfifo(odd)
    elif kind == "folder":
        odd.mkdir()
    elif kind == "link":
        odd.symlink_to(packages / "Good.pkg")
    refused, good = ask(tmp_path, "/Packages/Odd.pkg", "/Packages/Good.pkg")
    assert (refused.status_code, refused.json()["code"]) == (404, "package_unknown")
    assert (good.status_code, good.content) == (200, b"good")


def test_only_bytes_that_were_compared_are_served(tmp_path: Path) -> None:
    packages = Layout(tmp_path).packages
    packages.mkdir(parents=True)
    (packages / "Good.pkg").hardlink_to(blob(tmp_path, b"good"))
    (packages / "Copy.pkg").write_bytes(b"good")
    (packages / "Hand.pkg").write_bytes(b"by hand")
    rotten = blob(tmp_path, b"rotten")
    (packages / "Rotten.pkg").hardlink_to(rotten)
    rotten.write_bytes(b"Rotten")
    good, copy, hand, bad = ask(
        tmp_path, *(f"/Packages/{name}.pkg" for name in ("Good", "Copy", "Hand", "Rotten"))
    )
    assert (good.status_code, good.content) == (copy.status_code, copy.content) == (200, b"good")
    assert good.headers["ETag"] == f'"{hashlib.sha256(b"good").hexdigest()}"'
    assert hand.status_code == 404
    assert (bad.status_code, bad.json()["code"]) == (503, "storage_error")


def test_a_file_that_is_still_read_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = Layout(tmp_path).packages
    packages.mkdir(parents=True)
    (packages / "Good.pkg").hardlink_to(blob(tmp_path, b"good"))
    go_on, reads = threading.Event(), []

    def slowly(*args: Any) -> int:
        reads.append(args)
        go_on.wait(20)
        return read_at(*args)

    monkeypatch.setattr(module, "read_at", slowly)
    monkeypatch.setattr(module, "_WAIT_S", 0.1)
    threading.Timer(1.5, go_on.set).start()
    answers = ask(tmp_path, *["/Packages/Good.pkg"] * 3)
    assert [answer.status_code for answer in answers] == [503] * 3
    assert answers[0].headers["Retry-After"] == "5"
    assert len(reads) == 1, "one reading for all who ask"
    go_on.set()
    monkeypatch.setattr(module, "_WAIT_S", 10)
    first, second = ask(tmp_path, *["/Packages/Good.pkg"] * 2)
    assert first.content == second.content == b"good"
