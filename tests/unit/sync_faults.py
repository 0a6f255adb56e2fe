"""A disk whose syncs fail when a test says so; as with Linux, the one after a failure succeeds."""

import errno
import os
import stat
from typing import Any

import pytest


class FailingSyncs:
    """Counts syncs of files and of directories, and lets some fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files = self.directories = 0  #: so many were asked for since the last `arm`
        self._fail: dict[bool, set[int]] = {False: set(), True: set()}
        for name in ("fdatasync", "fsync"):
            monkeypatch.setattr(os, name, self._wrap(getattr(os, name)))

    def arm(self, *, file: int = 0, directory: int = 0) -> None:
        """Let the n-th sync of a file or a directory from now on fail; 0: none."""
        self.files = self.directories = 0
        self._fail = {False: {file}, True: {directory}}

    def _wrap(self, real: Any) -> Any:
        def sync(descriptor: int) -> None:
            is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
            if is_directory:
                self.directories += 1
            else:
                self.files += 1
            if (self.directories if is_directory else self.files) in self._fail[is_directory]:
                raise OSError(errno.EIO, "Input/output error")
            real(descriptor)

        return sync


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> FailingSyncs:
    """Syncs that fail when they are armed."""
    return FailingSyncs(monkeypatch)
