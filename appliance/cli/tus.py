"""Uploading a file so that it resumes: after a lost connection, and after this program was stopped.

Speaks tus 1.0.0 (https://tus.io/protocols/resumable-upload). Where an upload continues is kept in a small file of the
user's, by node, file, size and time of change; a file that changed is sent anew.
"""

import base64
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from .client import BLOCK, NodeClient, if_revision
from .exits import CommandFailed, ExitCode

TUS = {"Tus-Resumable": "1.0.0"}
TRIES = 8  #: in a row without a byte more at the node
_WAIT_S = (0.5, 1, 2, 4, 8, 15, 30, 30)
_STALLED_S = 60.0  #: nothing could be sent for so long: the connection is dead
_SENDING_S = 24 * 3600.0  #: the answer comes when the node has the whole body
_REMEMBERED = 200
_FINAL = {"package_exists", "precondition_failed"}  #: conflicts that asking again does not end


def state_path(environment: Mapping[str, str] = os.environ) -> Path:
    """The file that remembers uploads."""
    base = environment.get("XDG_STATE_HOME") or (environment.get("LOCALAPPDATA") if os.name == "nt" else None)
    return Path(base or Path.home() / ".local" / "state") / "ods" / "uploads.json"


class Memory:
    """Which uploads have begun, across runs of this program. Losing it costs time only."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, key: str) -> str | None:
        """The URL of an upload that began."""
        found = self._read().get(key)
        return found if isinstance(found, str) else None

    def put(self, key: str, url: str | None) -> None:
        """Remember an upload's URL, or forget it."""
        known = self._read()
        known.pop(key, None)
        if url is not None:
            known[key] = url
        kept = dict(list(known.items())[-_REMEMBERED:])
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                json.dump(kept, file)
            temporary.replace(self._path)
        except OSError:
            return  # a home that cannot be written to: the upload itself is not touched

    def _read(self) -> dict[str, object]:
        try:
            loaded = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return loaded if isinstance(loaded, dict) else {}


@dataclass(slots=True)
class _Body:
    """The rest of a file, as requests sends it; hashes what is sent and says how far it is."""

    file: IO[bytes]
    left: int
    digest: "hashlib._Hash"
    progress: Callable[[int], None]
    hashed: int  #: how many bytes of the file the digest has seen
    position: int = field(default=0)

    def __len__(self) -> int:
        return self.left

    def read(self, count: int = BLOCK) -> bytes:
        """The next bytes."""
        data = self.file.read(min(count if count and count > 0 else BLOCK, self.left))
        self.left -= len(data)
        fresh = self.position + len(data) - self.hashed
        if fresh > 0:  # after a lost connection some bytes go over the line a second time
            self.digest.update(data[-fresh:])
            self.hashed += fresh
        self.position += len(data)
        self.progress(self.position)
        return data


class Uploader:
    """Uploads one file."""

    def __init__(
        self,
        client: NodeClient,
        path: Path,
        *,
        filename: str,
        metadata: Mapping[str, str],
        memory: Memory,
        revision: int | None = None,
        progress: Callable[[int], None] = lambda _: None,
        note: Callable[[str], None] = lambda _: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepare.

        Args:
            client: The node.
            path: The file.
            filename: Its name at the node.
            metadata: stage, tags, notes, replace, allow_empty, sha256: as the node's upload metadata.
            memory: Where to continue.
            revision: Replace the package only if it is at this revision.
            progress: Told how many bytes were sent or are there.
            note: Told a sentence when something is out of the ordinary.
            sleep: Waits between tries.
        """
        self._client = client
        self._path = path
        self._metadata = {"filename": filename, **metadata}
        self._memory = memory
        self._revision = revision
        self._progress = progress
        self._note = note
        self._sleep = sleep
        status = path.stat()
        self.size = status.st_size
        self.effect = ""  #: what the upload did, when it is complete: see `Effect`
        self._mark = (status.st_size, status.st_mtime_ns)
        parts = [
            client.url,
            str(path.resolve()),
            *map(str, self._mark),
            *sorted(map("=".join, self._metadata.items())),
            *([f"revision={revision}"] if revision is not None else []),
        ]
        self._key = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
        self._digest = hashlib.sha256()
        self._hashed = 0

    def run(self) -> str:
        """Upload the file; return the id of the package.

        Raises:
            CommandFailed: The node refuses it, or stays away; what arrived is kept there for the next try.
        """
        with self._path.open("rb") as file:
            url, offset, package = self._begin()
            tries = 0
            while package is None:
                try:
                    package = self._send(file, url, offset)
                except CommandFailed as exc:
                    if exc.code not in {ExitCode.UNREACHABLE, ExitCode.CONFLICT, ExitCode.TRY_LATER}:
                        self._memory.put(self._key, None)
                        raise
                    if exc.details.get("code") in _FINAL or tries >= TRIES:
                        raise
                    self._note(f"{exc.message} Trying again ...")
                    self._sleep(_WAIT_S[min(tries, len(_WAIT_S) - 1)])
                    url, there, package = self._continue(url, offset)
                    tries = 0 if there > offset else tries + 1
                    offset = there
        self._memory.put(self._key, None)
        return package

    def sha256(self) -> str:
        """The SHA-256 of what was sent, in hex; the part that was there before is read from the file."""
        if self._hashed < self.size:
            with self._path.open("rb") as file:
                file.seek(self._hashed)
                while data := file.read(BLOCK):
                    self._digest.update(data)
                    self._hashed += len(data)
        return self._digest.hexdigest()

    def _begin(self) -> tuple[str, int, str | None]:
        known = self._memory.get(self._key)
        if known is not None and known.startswith(f"{self._client.url}/"):
            try:
                answer = self._client.call("HEAD", known, headers=TUS)
            except CommandFailed as exc:
                if exc.code == ExitCode.UNREACHABLE:
                    raise
                self._memory.put(self._key, None)
            else:
                offset = self._client.offset(answer, self.size)
                if offset:
                    self._note(f"Going on at byte {offset}.")
                return known, offset, None
        return self._create()

    def _create(self) -> tuple[str, int, str | None]:
        pairs = [
            f"{key} {base64.b64encode(value.encode()).decode()}"
            for key, value in self._metadata.items()
            if value
        ]
        headers = {**TUS, "Upload-Length": str(self.size), "Upload-Metadata": ",".join(pairs)}
        answer = self._client.call("POST", "/uploads", headers=headers | if_revision(self._revision))
        self.effect = answer.headers.get("ODS-Effect", "")
        # The node names itself by its own URL, which may not be the one by which it is reached from here.
        id = self._client.header(answer, "Location").rsplit("/", 1)[-1]
        url = f"{self._client.url}/api/v1/uploads/{id}"
        package = answer.headers.get("ODS-Package")
        if package is None:
            self._memory.put(self._key, url)
        return url, 0, package

    def _continue(self, url: str, offset: int) -> tuple[str, int, str | None]:
        """Ask how much is there; if the node is away, nothing has changed."""
        try:
            answer = self._client.call("HEAD", url, headers=TUS)
        except CommandFailed as exc:
            if exc.code == ExitCode.NOT_FOUND:
                return self._create()
            if exc.code in {ExitCode.UNREACHABLE, ExitCode.TRY_LATER}:
                return url, offset, None
            raise
        return url, self._client.offset(answer, self.size), None

    def _send(self, file: IO[bytes], url: str, offset: int) -> str:
        status = os.fstat(file.fileno())
        if (status.st_size, status.st_mtime_ns) != self._mark:
            self._client.call("DELETE", url, headers=TUS)
            raise CommandFailed(f"{self._path} changed while it was sent; nothing was kept. Upload it again.")
        while self._hashed < offset:  # what another run has sent
            file.seek(self._hashed)
            data = file.read(min(BLOCK, offset - self._hashed))
            if not data:
                break
            self._digest.update(data)
            self._hashed += len(data)
        file.seek(offset)
        self._progress(offset)
        body = _Body(file, self.size - offset, self._digest, self._progress, self._hashed, offset)
        headers = {**TUS, "Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
        try:
            answer = self._client.call(
                "PATCH", url, headers=headers, data=body, timeout=(_STALLED_S, _SENDING_S)
            )
        finally:
            self._hashed = body.hashed
        package = answer.headers.get("ODS-Package")
        self.effect = answer.headers.get("ODS-Effect", "")
        if package is None:
            raise CommandFailed("The node has not taken the whole file.", ExitCode.TRY_LATER)
        return package
