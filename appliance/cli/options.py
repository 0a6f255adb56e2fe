"""Options that several commands share."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from config.fields import parse_seconds, parse_size
from config.loading import find_file, load
from config.settings import Settings

from .client import NodeClient
from .exits import CommandFailed, ExitCode
from .output import Output
from .profile import find_connection

F = TypeVar("F", bound=Callable[..., Any])

CONFIG = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Settings file. Default: ODS_CONFIG, ./ods.yaml, /etc/ods/ods.yaml.",
)
DATA_DIR = click.option("--data-dir", metavar="DIR", help="Directory of everything that the node keeps.")


def read_settings(
    config_file: Path | None, flags: Mapping[str, Any] | None = None, *, files: bool = False
) -> Settings:
    """The settings for a command on this machine; with `files` those that they name have to be there.

    Raises:
        SettingsFault: They cannot be used.
    """
    return load(config_file or find_file(), flags=flags, files=files)


def local(function: F) -> F:
    """A command on this machine's node: pass it the settings first."""
    return _with_settings(function, files=False)


def running(function: F) -> F:
    """A command that needs all that a running node needs: pass it the settings first."""
    return _with_settings(function, files=True)


def _with_settings(function: F, *, files: bool) -> F:
    @CONFIG
    @DATA_DIR
    @functools.wraps(function)
    def wrapped(*arguments: Any, config_file: Path | None, data_dir: str | None, **keywords: Any) -> Any:
        settings = read_settings(config_file, {"data_dir": data_dir}, files=files)
        return function(settings, *arguments, **keywords)

    return wrapped  # type: ignore[return-value]


_CONNECTION = (
    click.option("--url", metavar="URL", help="The node to speak to. Default: ODS_URL, else the profile's."),
    click.option("--user", metavar="NAME", help="Account for a password sign-in. Default: ODS_USER."),
    click.option(
        "--ca-file", type=click.Path(path_type=Path), help="Authorities to trust. Default: ODS_CA_FILE."
    ),
    click.option("--fingerprint", metavar="HEX", help="Trust the certificate with this SHA-256 alone."),
)


def remote(function: F) -> F:
    """A command that speaks to a node: pass it the client and the output first."""

    @functools.wraps(function)
    @click.pass_context
    def wrapped(
        context: click.Context,
        /,
        *arguments: Any,
        url: str | None,
        user: str | None,
        ca_file: Path | None,
        fingerprint: str | None,
        **keywords: Any,
    ) -> Any:
        output = context.ensure_object(Output)
        connection = find_connection(url=url, user=user, ca_file=ca_file, fingerprint=fingerprint)
        with NodeClient(connection) as client:
            return function(client, output, *arguments, **keywords)

    for option in reversed(_CONNECTION):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]


class Duration(click.ParamType[int]):
    """Seconds, or a text such as 90s, 24h or 7d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Turn a text into whole seconds."""
        try:
            return round(float(parse_seconds(value)))
        except (ValueError, OverflowError):  # "inf" is a number to float
            self.fail(f'"{value}" is not a duration such as 90s, 24h or 7d.', param, ctx)


class Bytes(click.ParamType[int]):
    """Bytes, or a text such as 200MiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Turn a text into bytes."""
        try:
            return int(parse_size(value))
        except ValueError:
            return self.fail(f'"{value}" is not a size such as 200MiB.', param, ctx)


class Word(click.ParamType[str]):
    """A text that is not empty: a script's empty variable must not mean everything."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse an empty text."""
        if not str(value).strip():
            self.fail("it is empty; leave the option out, or give it a value.", param, ctx)
        return str(value)


def one_line(text: str) -> str:
    """A secret from standard input: its first line.

    Raises:
        CommandFailed: There is none.
    """
    first = text.splitlines()[0].strip() if text.strip() else ""
    if not first:
        raise CommandFailed("Standard input is empty.", ExitCode.USAGE)
    return first


DURATION = Duration()
BYTES = Bytes()
WORD = Word()
