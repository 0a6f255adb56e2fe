"""Exit codes that scripts can use, and the one place where errors become a line on standard error."""

import os
import sys
from typing import Any

import click

from appliance.domain.errors import (
    ApplianceError,
    Conflict,
    NotAllowed,
    NotFound,
    PeerError,
    StoreUnavailable,
)

FAILED = 1
USAGE = 2
NOT_FOUND = 3
NOT_ALLOWED = 4
CONFLICT = 5
UNREACHABLE = 6
TRY_LATER = 75
INTERRUPTED = 130

_BY_STATUS = {401: NOT_ALLOWED, 403: NOT_ALLOWED, 404: NOT_FOUND, 409: CONFLICT, 410: NOT_FOUND}
_LATER = {429, 502, 503, 507}


class NodeAnswer(click.ClickException):
    """The node answered with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = _BY_STATUS.get(status, TRY_LATER if status in _LATER else FAILED)


class Unreachable(click.ClickException):
    """The node does not answer."""

    exit_code = UNREACHABLE


def exit_code(error: ApplianceError) -> int:
    """The exit code of one of our errors."""
    for kind, code in (
        (NotFound, NOT_FOUND),
        (NotAllowed, NOT_ALLOWED),
        (Conflict, CONFLICT),
        (StoreUnavailable, TRY_LATER),
        (PeerError, TRY_LATER),
    ):
        if isinstance(error, kind):
            return code
    return FAILED


class Group(click.Group):
    """Turns errors into one line and an exit code; never a stack trace."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run the command line."""
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **extra)
        try:
            result = super().main(*args, standalone_mode=False, **extra)
        except click.Abort:
            click.echo("Interrupted.", err=True)
            sys.exit(INTERRUPTED)
        except click.ClickException as exc:
            exc.show()
            sys.exit(exc.exit_code)
        except ApplianceError as exc:
            click.echo(f"Error: {exc.message}", err=True)
            sys.exit(exit_code(exc))
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(FAILED)
        except OSError as exc:
            name = f"{exc.filename}: " if exc.filename else ""
            click.echo(f"Error: {name}{exc.strerror or exc}", err=True)
            sys.exit(FAILED)
        sys.exit(result if isinstance(result, int) else 0)
