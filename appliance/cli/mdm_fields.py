"""The fields of an MDM server from a command line: `--set key=value`, and secrets that never stand on it."""

import getpass
import json
import os
import sys
from collections.abc import Iterable
from typing import Any

from .exits import CommandFailed, ExitCode
from .options import one_line

SECRET_VARIABLE = "ODS_MDM_SECRET"  # noqa: S105 - the name of a variable
_TOP = ("name", "enabled")
_SECTIONS = ("settings", "intake", "mirror", "points", "webhooks")


def parse_sets(pairs: Iterable[str]) -> dict[str, Any]:
    """Fields by section.

    Args:
        pairs: `key=value`. A key is `section.field`, `name`, `enabled`, or a field of the driver's own settings. A
            value that is JSON is taken as such, everything else as text; `null` goes back to the default.

    Raises:
        CommandFailed: One is not of that form.
    """
    fields: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise CommandFailed(
                f"--set {pair}: write it as key=value, such as intake.poll_s=120.", ExitCode.USAGE
            )
        section, dot, field = key.partition(".")
        if key in _TOP:
            fields[key] = _value(text)
        elif dot and section in _SECTIONS and field:
            fields.setdefault(section, {})[field] = _value(text)
        elif not dot:
            fields.setdefault("settings", {})[key] = _value(text)
        else:
            known = ", ".join(_SECTIONS)
            raise CommandFailed(
                f'--set {key}: there is no section "{section}"; there are: {known}.', ExitCode.USAGE
            )
    return fields


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def read_secret(given: str | None, *, option: str, what: str) -> str:
    """A secret from standard input, the environment or the person at the terminal.

    Args:
        given: What the option was given: "-" or None.
        option: Its name.
        what: What it is, to ask for it.

    Raises:
        CommandFailed: It stands on the command line, where every user of the machine can read it, or there is none.
    """
    if given == "-":
        return one_line(sys.stdin.read())
    if given is not None:
        raise CommandFailed(
            f"{option}: others can see the command line. Give - and the secret on standard input, or set "
            f"{SECRET_VARIABLE}.",
            ExitCode.USAGE,
        )
    found = os.environ.get(SECRET_VARIABLE, "")
    if found:
        return found
    if not sys.stdin.isatty():
        raise CommandFailed(
            f"Give {option} - and the secret on standard input, or set {SECRET_VARIABLE}.", ExitCode.USAGE
        )
    return getpass.getpass(f"{what}: ")
