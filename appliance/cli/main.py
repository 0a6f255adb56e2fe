"""The entry point: which commands there are, and how errors end."""

import difflib
import json
import os
import signal
import sys
import types
from collections.abc import Sequence

import click

from appliance import __version__
from appliance.domain.errors import ApplianceError
from config.loading import SettingsFault

from .accounts import token, user
from .audit import audit
from .command import Group
from .demo import demo
from .directory import directory
from .exits import CommandFailed, ExitCode, for_error
from .mdm import mdm
from .moving import export, fsck, import_
from .node import init, serve, worker
from .nodes import node
from .notify import notify
from .output import Output, visible
from .packages import package
from .peers import peer
from .resetting import reset
from .scrub import scrub
from .session import login, logout
from .sessions import sessions, sign_out
from .settings import config
from .status import status
from .transfers import transfer


@click.group(
    "ods", cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="ods", message="%(prog)s %(version)s")
def ods() -> None:
    """Open Distribution Server: packages that reach one node appear, verified, on all of them.

    `ods serve` runs a node. The other commands speak to the node that ODS_URL, or the profile written by
    `ods login`, names. Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 not allowed, 5 conflict, 6 node
    unreachable, 75 try later.
    """


for _command in (
    serve, worker, init, config, login, logout, status, package, peer, node, mdm, transfer, token, user, directory,
    audit, notify, export, import_, fsck, scrub, demo,
):  # fmt: skip
    ods.add_command(_command)


for _about in (reset, sessions, sign_out):
    user.add_command(_about)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line and end the process with its exit code."""
    sys.excepthook = _unexpected
    code = run(arguments)
    sys.exit(code)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; return the exit code.

    Args:
        arguments: Without the program's name; None for those of the process.
    """
    output = Output()
    try:
        result = ods.main(
            None if arguments is None else list(arguments), prog_name="ods", obj=output, standalone_mode=False
        )
        sys.stdout.flush()
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        _say("interrupted", output, ExitCode.INTERRUPTED)
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain again when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + getattr(signal, "SIGPIPE", 13)
    except click.UsageError as exc:
        _say_usage(exc, output)
        return ExitCode.USAGE
    except CommandFailed as exc:
        _say(exc.message, output, exc.code, exc.details)
        return exc.code
    except click.ClickException as exc:
        _say(exc.format_message(), output, exc.exit_code)
        return exc.exit_code
    except SettingsFault as exc:
        for fault in exc.faults if not output.json else ["\n".join(exc.faults)]:
            _say(fault, output, ExitCode.USAGE, {"faults": exc.faults})
        return ExitCode.USAGE
    except ApplianceError as exc:
        _say(exc.message, output, for_error(exc), {"code": exc.code})
        return for_error(exc)
    except UnicodeEncodeError as exc:
        _say(f"{exc.object!r} has bytes that are not UTF-8; write it in UTF-8.", output, ExitCode.USAGE)
        return ExitCode.USAGE
    except OSError as exc:
        what = f": {exc.filename}" if exc.filename else ""
        _say(f"{exc.strerror or exc}{what}", output, ExitCode.FAILED)
        return ExitCode.FAILED
    return result if isinstance(result, int) else int(ExitCode.OK)


def _say_usage(exc: click.UsageError, output: Output) -> None:
    whole = isinstance(exc, click.exceptions.NoArgsIsHelpError)  # its message is all of the help
    if whole and not output.json:
        click.echo(exc.format_message(), err=True)
        return
    if isinstance(exc, click.NoSuchOption):
        near = [one for one in exc.possibilities or () if _alike(exc.option_name, one)]
        exc = click.NoSuchOption(exc.option_name, exc.message, near, exc.ctx)
    if not output.json and exc.ctx is not None:
        click.echo(f"{exc.ctx.get_usage()}\nTry 'ods{_path(exc.ctx)} --help'.", err=True)
    _say("Missing command." if whole else exc.format_message(), output, ExitCode.USAGE)


def _alike(given: str, option: str) -> bool:
    """Whether one is likely a slip for the other; the dashes are alike everywhere."""
    pair = (given.lstrip("-").lower(), option.lstrip("-").lower())
    return pair[1].startswith(pair[0]) or difflib.SequenceMatcher(None, *pair).ratio() >= 0.7


def _path(context: click.Context) -> str:
    return context.command_path.removeprefix("ods")


def _say(message: str, output: Output, code: int, details: dict[str, object] | None = None) -> None:
    if output.json:
        body = {**(details or {}), "error": message, "exit_code": int(code)}
        click.echo(json.dumps(body, ensure_ascii=False, default=str), err=True)
    else:
        for line in message.splitlines() or [""]:
            click.echo(f"ods: {visible(line)}", err=True)


def _unexpected(kind: type[BaseException], error: BaseException, trace: types.TracebackType | None) -> None:
    """A fault of ours: one line for a person; the traceback only on request."""
    if os.environ.get("ODS_DEBUG"):
        sys.__excepthook__(kind, error, trace)
    else:
        sys.stderr.write(
            f"ods: internal error: {kind.__name__}: {error}. Set ODS_DEBUG=1 to see where, and report it.\n"
        )
