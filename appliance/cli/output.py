"""What commands print: tables for people, plain columns in a pipe, JSON on request.

Results go to standard output; progress, hints and errors to standard error. `NO_COLOR` is honoured.
"""

import datetime
import json
from collections.abc import Iterable, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from appliance.domain.sizes import human_size

_MISSING = "-"


class Output:
    """Where a command prints."""

    def __init__(self) -> None:
        self.json = False  #: set by --json

    @property
    def console(self) -> Console:
        """For standard output, as it is now."""
        return Console(highlight=False, soft_wrap=True)

    @property
    def errors(self) -> Console:
        """For standard error, as it is now."""
        return Console(stderr=True, highlight=False, soft_wrap=True)

    def data(self, value: Any) -> None:
        """Print a value as JSON."""
        click.echo(json.dumps(value, ensure_ascii=False, indent=2))

    def line(self, text: str) -> None:
        """Print a line of a result."""
        click.echo(visible(text))

    def note(self, text: str) -> None:
        """Print a line beside the result, to standard error; nothing with --json."""
        if not self.json:
            click.echo(visible(text), err=True)

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Sequence[str] = ()
    ) -> None:
        """Print rows.

        Args:
            columns: Their headings.
            rows: A value for each column; None and "" are shown as a dash.
            numbers: Columns that are aligned to the right.
        """
        cells = [[_cell(value) for value in row] for row in rows]
        console = self.console
        if not console.is_terminal:
            for row in [[column.upper() for column in columns], *cells]:
                click.echo("\t".join(row))
            return
        table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
        for column in columns:
            table.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
        for row in cells:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table, soft_wrap=False)

    def facts(self, facts: Iterable[tuple[str, object]]) -> None:
        """Print names with their values, one a line."""
        shown = [(name, _cell(value)) for name, value in facts]
        width = max((len(name) for name, _ in shown), default=0) + 1
        for name, value in shown:
            click.echo(f"{name + ':':<{width}}  {value}")


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value))
    return visible(str(value)) if value not in (None, "") else _MISSING


def visible(text: str) -> str:
    """A text from a node without anything that a terminal would obey."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def size(count: float | None) -> str:
    """Bytes for people."""
    return _MISSING if count is None else human_size(count)


def span(seconds: float) -> str:
    """A duration for people."""
    left = round(seconds)
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if left >= 2 * length:
            return f"{left // length} {unit}"
    return f"{left} s"


def moment(iso: str | None) -> str:
    """A time of the API in the zone of this machine, to the second."""
    if not iso:
        return _MISSING
    return datetime.datetime.fromisoformat(iso).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def upcoming(iso: str | None) -> str:
    """A time of the API at which something is done next; what should have begun already begins now."""
    if not iso:
        return _MISSING
    due = datetime.datetime.fromisoformat(iso) <= datetime.datetime.now(datetime.UTC)
    return "now" if due else moment(iso)
