"""Options that several commands share."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from config.loading import SettingsFault, load
from config.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])


def config_options(command: F) -> F:
    """`--config` and `--data-dir`, for commands that work on a node's own files."""
    command = click.option("--data-dir", metavar="DIR", help="Where the node keeps everything.")(command)
    return click.option(
        "--config",
        "config_file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        envvar="ODS_CONFIG",
        help="The settings file (YAML).",
    )(command)


def json_option(command: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def settings_from(config_file: Path | None, **flags: Any) -> Settings:
    """Read the settings; flags are named by their dotted keys with `__` for the dots."""
    given = {name.replace("__", "."): value for name, value in flags.items()}
    try:
        return load(config_file, os.environ, given)
    except SettingsFault as exc:
        raise click.ClickException("The settings cannot be used:\n  " + "\n  ".join(exc.faults)) from exc
