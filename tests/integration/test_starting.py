"""What a node answers before its parts are there, over HTTP."""

import asyncio
import os
from pathlib import Path

import httpx
import pytest
import tornado.httpserver

from appliance.api.starting import Starting, make_starting_application
from appliance.server import listen
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


def test_it_is_not_ready_in_the_form_of_later(tmp_path: Path) -> None:
    (answer,) = ask(tmp_path, "/health/ready")
    assert (answer.status_code, set(answer.json())) == (503, {"status", "checks", "warnings"})
    assert answer.json()["warnings"] == []


@pytest.mark.parametrize("kind", ["pipe", "folder", "link", "missing"])
def test_what_is_no_file_holds_nobody_up(tmp_path: Path, kind: str) -> None:
    packages = Layout(tmp_path).packages
    packages.mkdir(parents=True)
    (packages / "Good.pkg").write_bytes(b"good")
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
