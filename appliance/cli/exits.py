"""Exit codes, for scripts; documented in docs/cli.md."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import click

from appliance.domain import errors as e


class ExitCode(IntEnum):
    """What a command's end means."""

    OK = 0
    FAILED = 1  #: it was tried and did not work
    USAGE = 2  #: the command line, a value or the settings are wrong
    NOT_FOUND = 3  #: there is no such package, peer, ...
    NOT_ALLOWED = 4  #: not signed in, or the role does not suffice
    CONFLICT = 5  #: it contradicts what is there, for example a name that is taken
    UNREACHABLE = 6  #: the node does not answer
    TRY_LATER = 75  #: as EX_TEMPFAIL of sysexits.h: the same command can succeed later
    INTERRUPTED = 130  #: Ctrl-C


class CommandFailed(click.ClickException):
    """A command did not work; the message says why and what to do."""

    def __init__(
        self, message: str, code: ExitCode = ExitCode.FAILED, details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.details = dict(details or {})


_BY_STATUS = {
    400: ExitCode.USAGE,
    401: ExitCode.NOT_ALLOWED,
    403: ExitCode.NOT_ALLOWED,
    404: ExitCode.NOT_FOUND,
    409: ExitCode.CONFLICT,
    410: ExitCode.NOT_FOUND,
    412: ExitCode.CONFLICT,
    413: ExitCode.USAGE,
    429: ExitCode.TRY_LATER,
    503: ExitCode.TRY_LATER,
    507: ExitCode.TRY_LATER,
}
_BY_CLASS: dict[type[e.ApplianceError], ExitCode] = {
    e.InvalidInput: ExitCode.USAGE,
    e.NotAllowed: ExitCode.NOT_ALLOWED,
    e.NotFound: ExitCode.NOT_FOUND,
    e.Conflict: ExitCode.CONFLICT,
    e.StorageError: ExitCode.TRY_LATER,
    e.ApplianceError: ExitCode.FAILED,
}


def for_status(status: int) -> ExitCode:
    """The exit code for an HTTP status that is an error."""
    return _BY_STATUS.get(status, ExitCode.FAILED)


def for_error(error: e.ApplianceError) -> ExitCode:
    """The exit code for an error of this machine's own."""
    return next(_BY_CLASS[cls] for cls in type(error).__mro__ if cls in _BY_CLASS)
