"""A fake Jamf Pro as a process of its own; README.md says what of the real one it has."""

import http.client
import json
import subprocess
import sys
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote


class FakeJamf:
    """Starts a fake Jamf Pro on a free loopback port; leaving the block ends it. Actions are those of `control`.

    Args:
        version: Of Jamf Pro.
        cdn: The kind of its cloud distribution point.
        packages: Records without files to begin with.
        token_life_s: How long its tokens live.
    """

    def __init__(
        self,
        *,
        version: str = "11.30.1",
        cdn: str = "JAMF_CLOUD",
        packages: int = 0,
        token_life_s: float = 60.0,
    ) -> None:
        command = [sys.executable, "-m", "tests.fakes.jamf", "--version", version, "--cdn", cdn, "--attached"]
        command += ["--packages", str(packages), "--token-life", str(token_life_s)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        facts = json.loads(self.process.stdout.readline())
        self.url: str = facts["url"]
        self.client_id: str = facts["client_id"]
        self.client_secret: str = facts["client_secret"]
        self.username: str = facts["username"]
        self.password: str = facts["password"]
        self.account: str = facts["account"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(20)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def _ask(self, method: str, path: str, body: bytes, timeout_s: float) -> Any:
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=timeout_s)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            data = answer.read()
            assert answer.status == 200, (path, answer.status, data[:500])
            return json.loads(data)
        finally:
            connection.close()

    def control(self, action: str, *, timeout_s: float = 120.0, **arguments: Any) -> Any:
        """Do what an admin does in the GUI, or look into the server."""
        return self._ask("POST", f"/control/{action}", json.dumps(arguments).encode(), timeout_s)

    def upload_bytes(self, name: str, data: bytes) -> dict[str, Any]:
        """An admin uploads these bytes in the GUI; returns id, md5 and sha3."""
        found: dict[str, Any] = self._ask("PUT", f"/control/upload/{quote(name, safe='')}", data, 120.0)
        return found

    def upload(self, name: str, size: int, seed: int = 0, **changes: Any) -> dict[str, Any]:
        """An admin uploads a file of this size in the GUI; returns id, size, md5 and sha3."""
        found: dict[str, Any] = self.control("upload", name=name, size=size, seed=seed, **changes)
        return found

    def faults(self, **changes: Any) -> None:
        """Make it unpleasant, or pleasant again; see `state.Faults`."""
        self.control("faults", **changes)

    def packages(self) -> list[dict[str, Any]]:
        """Every package record."""
        found: list[dict[str, Any]] = self.control("packages")
        return found

    def package(self, file_name: str) -> dict[str, Any] | None:
        """The record of a file name."""
        return next((record for record in self.packages() if record["fileName"] == file_name), None)
