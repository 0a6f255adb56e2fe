"""Asking before something is destroyed: every command that destroys takes --yes, and asks or refuses without it."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from .exits import CommandFailed, ExitCode
from .output import visible

F = TypeVar("F", bound=Callable[..., Any])


def yes_option(function: F) -> F:
    """A command that asks: give it --yes."""
    return click.option("--yes", is_flag=True, help="Skip confirmation.")(function)


def confirm(question: str, *, yes: bool = False) -> None:
    """Let the command go on if that was said on the command line, or is said now.

    Raises:
        CommandFailed: The person says no, or there is nobody to ask.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandFailed(
            f"{question} There is no terminal to ask at: add --yes to confirm. Nothing changed.",
            ExitCode.USAGE,
        )
    if not click.confirm(visible(question), err=True):
        raise CommandFailed("Nothing changed.", ExitCode.FAILED)
