"""curl, the client that most admins have."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class CurlAnswer:
    """What curl got."""

    code: int  #: curl's exit code
    status: int  #: of HTTP, 0 for none
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def curl_upload(file: Path, url: str, *, user: str, options: tuple[str, ...] = ()) -> CurlAnswer:
    """`curl -T FILE URL`, as the README shows it."""
    command = [
        "curl",
        "-sS",
        "--path-as-is",
        "-u",
        user,
        "-T",
        str(file),
        "-w",
        "\\n%{http_code}",
        *options,
        url,
    ]
    done = subprocess.run(command, capture_output=True, timeout=280, check=False)
    body, _, status = done.stdout.rpartition(b"\n")
    return CurlAnswer(code=done.returncode, status=int(status or 0), body=body)
