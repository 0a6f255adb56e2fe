"""The Jamf Pro of the demo: the fake one of the tests, connected to the first node."""

import http.client
import json
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import appliance

from .demo_nodes import DemoNode
from .exits import CommandFailed, ExitCode
from .output import Output, size

FILE = "Uploaded in Jamf 1.0.pkg"
SIZE = 64 * 1024 * 1024  #: bytes
_LONGEST_S = 120.0
_EVERY_S = 0.1


class DemoJamf:
    """A fake Jamf Pro as a process; leaving the block ends it.

    Raises:
        CommandFailed: This is no checkout of the project: the fake is part of its tests.
    """

    def __init__(self) -> None:
        checkout = Path(appliance.__file__).parents[1]
        if not (checkout / "tests" / "fakes" / "jamf").is_dir():
            raise CommandFailed(
                "The fake Jamf Pro is part of the project's tests: run the demo in a checkout, make demo ARGS=--jamf.",
                ExitCode.USAGE,
            )
        command = [sys.executable, "-m", "tests.fakes.jamf", "--attached", "--packages", "20"]
        self._process = subprocess.Popen(  # noqa: S603
            command, cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise CommandFailed("The fake Jamf Pro does not start.")
        self.facts: dict[str, str] = json.loads(line)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(20)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    @property
    def url(self) -> str:
        """Where it is."""
        return self.facts["url"]

    def control(self, action: str, **arguments: Any) -> Any:
        """Do what an admin does in the GUI."""
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=60)
        try:
            connection.request("POST", f"/control/{action}", json.dumps(arguments))
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def show(self, output: Output, nodes: list[DemoNode], package: str) -> dict[str, Any]:
        """Connect it to the first node, and show what goes in and out; return that as data."""
        settings = {"url": self.url, "insecure": True}
        settings |= {name: self.facts[name] for name in ("client_id", "client_secret")}
        nodes[0].client.post(
            "/mdm/servers",
            {
                "name": "Jamf Pro",
                "kind": "jamf",
                "settings": settings,
                "intake": {"poll_s": 10},
                "webhooks": {"register_at": nodes[0].url, "debounce_s": 1},
            },
        )
        output.note(f"Jamf Pro (a fake one) at {self.url} is connected to {nodes[0].name}.")
        points = _until(lambda: len(found := self.control("points")) == len(nodes) and found)
        output.note(
            f"It has {len(points)} distribution points: {', '.join(point['name'] for point in points)}."
        )
        record = _until(
            lambda: next((one for one in self.control("packages") if one["fileName"] == package), None)
        )
        output.note(
            f"It has a package record for {package}: {record['hashType']} {record['hashValue'][:16]}..."
        )
        self.control("upload", name=FILE, size=SIZE, seed=1, pending_s=2)
        output.note(f"Somebody uploads {FILE}, {size(SIZE)}, in Jamf Pro.")
        began = time.monotonic()
        seconds: dict[str, float] = {}
        for node in nodes:
            _until(lambda node=node: _holds(node))
            seconds[node.name] = round(time.monotonic() - began, 2)
            output.note(f"{node.name} holds it, verified, after {seconds[node.name]:.1f} s.")
        names = [point["name"] for point in points]
        return {
            "url": self.url,
            "distribution_points": names,
            "hash": record["hashValue"],
            "seconds": seconds,
        }

    def tell(self, output: Output) -> None:
        """What to try by hand."""
        output.line(f"Upload in Jamf Pro by hand:  curl -T FILE.pkg {self.url}/control/upload/FILE.pkg")


def _holds(node: DemoNode) -> bool:
    found = node.client.get("/packages", q=FILE)["items"]
    return bool(found) and found[0]["presence"] == "held"


def _until(look: Any) -> Any:
    deadline = time.monotonic() + _LONGEST_S
    while not (found := look()):
        if time.monotonic() > deadline:
            raise CommandFailed(
                "What was to be shown did not happen in time; `ods mdm list` at the first node says more."
            )
        time.sleep(_EVERY_S)
    return found
