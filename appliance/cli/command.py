"""The classes of all commands: each takes `--json`, and shows what went wrong in one way."""

from collections.abc import Callable
from typing import Any

import click

from .output import Output


def _set_json(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Output).json = True


def _json_option() -> click.Option:
    return click.Option(
        ["--json"], is_flag=True, expose_value=False, callback=_set_json, help="Print JSON instead of tables."
    )


class Command(click.Command):
    """A command that takes --json."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.params.append(_json_option())


class Group(click.Group):
    """A group of commands; --json may stand before the command too."""

    command_class = Command
    group_class = type

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.params.append(_json_option())


def group(name: str) -> Callable[[Callable[..., Any]], Group]:
    """A group, as `click.group` makes one."""
    return click.group(name, cls=Group)


def command(name: str) -> Callable[[Callable[..., Any]], Command]:
    """A command, as `click.command` makes one."""
    return click.command(name, cls=Command)
