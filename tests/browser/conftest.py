"""A real browser: Debian's Chromium, driven by Playwright, on real nodes."""

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Playwright, sync_playwright

from tests.conftest import skip_or_fail
from tests.harness import Network
from tests.harness.node import NodeProcess

from .visitor import Visitor

AXE = "axe-core@4.14.1"
CACHE = Path(__file__).parents[2] / ".cache"


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    """Playwright; it keeps an event loop of its own, so it lives no longer than a module of tests."""
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    """Chromium."""
    path = os.environ.get("ODS_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        skip_or_fail("chromium is missing: apt-get install chromium")
    # In a container there is no sandbox for root, and /dev/shm is small.
    started = playwright.chromium.launch(
        executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"]
    )
    yield started
    started.close()


@pytest.fixture
def visitor(browser: Browser) -> Iterator[Visitor]:
    """A person at a desk. The test fails if a page complained: an error in its console, or its policy broken."""
    person = Visitor(browser)
    yield person
    person.close()
    assert person.complaints == []


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node for a module of tests."""
    with Network(tmp_path_factory.mktemp("browser")) as network:
        yield network.node("Amsterdam")


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, fetched once by npm into a directory that git ignores."""
    kept = CACHE / AXE / "axe.min.js"
    if not kept.exists():
        npm = shutil.which("npm")
        if npm is None:
            skip_or_fail("npm is missing: apt-get install npm")
        kept.parent.mkdir(parents=True, exist_ok=True)
        fetched = tmp_path_factory.mktemp("axe")
        done = subprocess.run(
            [str(npm), "pack", AXE, "--silent"],
            cwd=fetched,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            skip_or_fail(f"npm cannot fetch {AXE}: {done.stderr[-300:]}")
        with tarfile.open(fetched / done.stdout.strip().splitlines()[-1]) as archive:
            member = archive.extractfile("package/axe.min.js")
            assert member is not None
            # Others may fetch it now: whoever reads it finds all of it or nothing.
            part = kept.with_suffix(f".{os.getpid()}")
            part.write_bytes(member.read())
            part.replace(kept)
    return kept.read_text(encoding="utf-8")
