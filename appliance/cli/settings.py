"""`ods config`: look at the settings of this machine's node, check them, make a file of them."""

from pathlib import Path

import click
import yaml

from config.loading import as_dict, find_file, render_default
from config.settings import Settings

from .command import group
from .exits import CommandFailed, ExitCode
from .options import CONFIG, DATA_DIR, local, read_settings
from .output import Output


@group("config")
def config() -> None:
    """Show, check or make settings."""


@config.command("show")
@local
@click.pass_obj
def show(output: Output, settings: Settings) -> None:
    """Print the settings that a node would use here, with secrets masked."""
    values = as_dict(settings)
    if output.json:
        output.data(values)
    else:
        click.echo(yaml.safe_dump(values, sort_keys=False, allow_unicode=True).rstrip())


@config.command("check")
@CONFIG
@DATA_DIR
@click.pass_obj
def check(output: Output, config_file: Path | None, data_dir: str | None) -> None:
    """Say what is wrong with the settings: each fault with its key, the reason and its line."""
    read_settings(config_file, {"data_dir": data_dir}, files=True)
    path = config_file or find_file()
    if output.json:
        output.data({"valid": True, "file": str(path) if path else None})
    else:
        output.line(f"The settings are valid ({path or 'no file, defaults and environment only'}).")


@config.command("default")
@click.option(
    "-o", "--output", "file", type=click.Path(path_type=Path), help="Write to this new file instead."
)
@click.pass_obj
def default(output: Output, file: Path | None) -> None:
    """Print the commented default settings."""
    if file is not None:
        try:
            with file.open("x", encoding="utf-8") as stream:
                stream.write(render_default())
        except FileExistsError as exc:
            raise CommandFailed(f"{file} exists; it is not overwritten.", ExitCode.CONFLICT) from exc
    elif output.json:
        output.data(as_dict(Settings()))
    else:
        click.echo(render_default().rstrip())
