"""Commands that are the node: serve, worker, init, config."""

import asyncio
import json
from pathlib import Path
from typing import Any

import click
import yaml

from appliance import log
from config.loading import as_dict, render_default
from config.settings import Settings

from .options import config_options, json_option, settings_from


@click.command()
@config_options
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="Port to listen on.")
@click.option("--url", help="Base URL under which other nodes call this one.")
@click.option("--name", help="The node's name.")
def serve(
    config_file: Path | None,
    data_dir: str | None,
    host: str | None,
    port: int | None,
    url: str | None,
    name: str | None,
) -> int:
    """Run a node until it is told to stop."""
    settings = settings_from(
        config_file, data_dir=data_dir, http__host=host, http__port=port, node__url=url, node__name=name
    )
    return _run(settings, serving=True)


@click.command()
@config_options
def worker(config_file: Path | None, data_dir: str | None) -> int:
    """Run only the jobs of a node, beside its serving process."""
    return _run(settings_from(config_file, data_dir=data_dir), serving=False)


def _run(settings: Settings, *, serving: bool) -> int:
    from appliance.bootstrap import build  # the other commands start fast without it
    from appliance.server import serve as run

    log.configure(format=settings.log.format, level=settings.log.level)
    return run(lambda: build(settings, serving=serving, announce=_announce))


def _announce(line: str) -> None:
    click.echo(line)


@click.command()
@config_options
@json_option
def init(config_file: Path | None, data_dir: str | None, as_json: bool) -> None:
    """Make data directory, identity and first account, without starting the node."""
    from appliance.bootstrap import prepare

    settings = settings_from(config_file, data_dir=data_dir)
    report = asyncio.run(prepare(settings))
    if as_json:
        click.echo(json.dumps(report))
        return
    click.echo(f"Data directory: {report['data_dir']}")
    click.echo(f"Node id:        {report['node_id']}")
    if report["password"]:
        click.echo(f"First account:  admin  password:  {report['password']}  (shown only now)")
    click.echo("Start it with:  ods serve")


@click.group()
def config() -> None:
    """Show, check or make settings."""


@config.command()
@config_options
@json_option
def show(config_file: Path | None, data_dir: str | None, as_json: bool) -> None:
    """Print the settings that would be used, with secrets masked."""
    data = as_dict(settings_from(config_file, data_dir=data_dir))
    click.echo(json.dumps(data, indent=2) if as_json else yaml.safe_dump(data, sort_keys=False).rstrip())


@config.command()
@config_options
@json_option
def check(config_file: Path | None, data_dir: str | None, as_json: bool) -> None:
    """Say whether the settings can be used, and what is wrong with them."""
    settings_from(config_file, data_dir=data_dir)
    click.echo(json.dumps({"valid": True}) if as_json else "The settings are valid.")


@config.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to this file instead; never over another.")
def default(output: Path | None) -> None:
    """Print the commented default settings."""
    text = render_default()
    if output is None:
        click.echo(text.rstrip())
        return
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as exc:
        raise click.ClickException(f"{output} exists; it is not overwritten.") from exc


def add_to(group: Any) -> None:
    """Add the commands."""
    for command in (serve, worker, init, config):
        group.add_command(command)
