"""Logging: JSON lines or a console, request ids, and no secrets in either.

Every line is one event: a sentence, and fields given as `extra` (`action=...`). Both formats pass through
`scrub`, which hides what looks like a credential, in tracebacks too: better a hidden word too many.
A traceback is a field of the JSON line, for operators; the console shows it at level debug only.

A disk that is full and a database that is away are no faults of the program: whoever meets them gets a line without a
traceback, and the same line again at most once a minute. Lines that cannot be written are counted.
"""

import contextvars
import datetime
import errno
import json
import logging
import re
import secrets
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, TextIO

from appliance.domain.errors import StorageError

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")

HIDDEN = "[hidden]"

_OWN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_SECRET_FIELD = re.compile(
    r"(?i)password|passwd|secret|authorization|cookie|credential|private_?key|^token$|_token$|^invite$|signature$"
)
# A text without any of these (in lower case) holds nothing to hide; most lines end here.
_HINTS = (
    "ods1.", "ods_", "basic", "bearer", "negotiate", "authorization", "cookie", "://", "passw", "secret",
    "token", "key", "invite", "credential", "signature", "passphrase", "sig=", "auth=", "code=", "x-amz-",
)  # fmt: skip
_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S),
     HIDDEN),
    (re.compile(r"\bods1\.[A-Za-z0-9_-]{8,}={0,2}"), f"ods1.{HIDDEN}"),
    (re.compile(r"\b(ods_[A-Za-z0-9]{1,64})_[A-Za-z0-9_-]{16,}"), rf"\1_{HIDDEN}"),
    (re.compile(r"(?i)\b((?:set-)?cookie\"?'?\s?[:=]\s?)[^\r\n\"']+"), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)(authorization\"?'?\s?[:=]\s?[\"']?(?:(?:basic|bearer|negotiate)\s)?)[^\s\"',;]+"),
     rf"\1{HIDDEN}"),
    (re.compile(r"(?i)\b((?:basic|bearer|negotiate)\s+)(?=[a-z_~-]*[\d=+/._A-Z])[A-Za-z0-9+/._~-]{6,}=*"),
     rf"\1{HIDDEN}"),
    (re.compile(r"(?i)\b([a-z][a-z0-9+.-]{1,20}://)[^\s/?#:@\"']{0,256}:[^\s/?#\"']{0,256}@"),
     rf"\1{HIDDEN}@"),
    (re.compile(
        r"(?i)((?:password|passwd|secret|token|api[_-]?key|invite|credential|signature|passphrase)"
        r"(?:(?:\"|')?\s?[:=]\s?(?:\"|')|\"?\s?=))"
        r"((?<=\")[^\"\r\n]+|(?<=')[^'\r\n]+|[^\s&;,\"'}\]]+)"),
     rf"\1{HIDDEN}"),
    (re.compile(r"(?i)\b((?:password|passwd|passphrase|secret):\s)[^\s,;]+"), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)([?&](?:key|sig|auth|code|x-amz-[a-z-]{1,32})=)[^\s&\"']+"), rf"\1{HIDDEN}"),
)  # fmt: skip

LogFormat = Literal["auto", "json", "console"]


def scrub(text: str) -> str:
    """Return `text` with everything that looks like a credential hidden.

    Covers Authorization and cookie values, tokens and invites of this product, passwords in URLs, query and
    form parameters with telling names, and private keys in PEM.
    """
    lower = text.lower()
    if not any(hint in lower for hint in _HINTS):
        return text
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def scrub_value(name: str, value: object) -> object:
    """Return a field's value fit for the log: strings scrubbed, whatever has a secret's name hidden."""
    if _SECRET_FIELD.search(name) and value not in (None, "", True, False):
        return HIDDEN
    if isinstance(value, str):
        return scrub(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): scrub_value(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [scrub_value("", item) for item in value]
    return scrub(str(value))


def new_request_id() -> str:
    """Return a random request id of 16 hex digits."""
    return secrets.token_hex(8)


def configure(*, format: LogFormat = "auto", level: str = "info", stream: TextIO | None = None) -> None:
    """Send all logging to one stream. Called once, by the process's entry point.

    Args:
        format: "json", "console", or "auto": a console if the stream is a terminal.
        level: "debug", "info", "warning" or "error".
        stream: Where to; standard error if None.
    """
    stream = sys.stderr if stream is None else stream
    if format == "auto":
        format = "console" if stream.isatty() else "json"
    handler = _Handler(stream)
    handler.addFilter(KnownConditions())
    number = logging.getLevelNamesMapping()[level.upper()]
    handler.setFormatter(JsonFormatter() if format == "json" else ConsoleFormatter(number <= logging.DEBUG))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(number)
    logging.captureWarnings(True)
    # These write a line for each request, run or connection, URLs included; what matters is logged by us.
    for name in ("asyncio", "urllib3", "pymongo", "tornado.access", "tzlocal", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("apscheduler").setLevel(logging.ERROR)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes lines, and counts those that could not be: the log may be on the disk that is full."""

    lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, and before it that some were lost."""
        before = self.lost
        if before:
            fields = {
                "name": __name__,
                "msg": "log lines were lost",
                "levelno": logging.WARNING,
                "levelname": "WARNING",
                "action": "log_lost",
                "count": before,
            }
            super().emit(logging.makeLogRecord(fields))
            if self.lost > before:
                return
            self.lost = 0
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Count what could not be written."""
        if isinstance(sys.exc_info()[1], OSError):
            self.lost += 1
        else:
            super().handleError(record)


class KnownConditions(logging.Filter):
    """Takes the traceback off lines about a full disk or a database that is away, and drops repetitions."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._said: dict[tuple[str, str, str], float] = {}
        self._dropped: dict[tuple[str, str, str], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write a line."""
        condition = _condition(record)
        if not condition:
            return True
        key, now = (record.name, str(record.msg), condition), self._clock()
        if now - self._said.get(key, -REPEAT_S) < REPEAT_S:
            self._dropped[key] = self._dropped.get(key, 0) + 1
            return False
        self._said[key] = now
        if repeated := self._dropped.pop(key, 0):
            record.repeated = repeated
        return True


def _condition(record: logging.LogRecord) -> str:
    """The word for the condition that a line is about, or ""; its traceback is replaced by one sentence."""
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    if isinstance(error, StorageError) or (isinstance(error, OSError) and error.errno in _FULL):
        record.exc_info = record.exc_text = None
        record.error = getattr(error, "message", str(error))
        return type(error).__name__
    text = getattr(record, "error", "")
    word = text.partition(":")[0] if isinstance(text, str) else ""
    return word if word in _CONDITIONS else ""


REPEAT_S = 60.0
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
_CONDITIONS = {"StorageFull", "StoreUnavailable"}  #: as the runner of jobs describes errors


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """What was given as `extra`, scrubbed, and the request id."""
    fields = {
        name: scrub_value(name, value)
        for name, value in vars(record).items()
        if name not in _OWN_FIELDS and not name.startswith("_")
    }
    current = request_id.get()
    if current:
        fields.setdefault("request_id", current)
    return fields


def _error(record: logging.LogRecord) -> tuple[BaseException, Any] | None:
    """The exception of a record and its traceback."""
    if not isinstance(record.exc_info, tuple) or record.exc_info[1] is None:
        return None
    return record.exc_info[1], record.exc_info[2]


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the fields, and a traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        at = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, object] = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": scrub(record.getMessage()),
        }
        for name, value in _fields(record).items():
            line.setdefault(name, value)
        if (error := _error(record)) is not None:
            line["exception"] = scrub(f"{type(error[0]).__name__}: {error[0]}")
            line["traceback"] = scrub(self.formatException(record.exc_info))  # type: ignore[arg-type]
        return json.dumps(line, ensure_ascii=False, default=str)


class ConsoleFormatter(logging.Formatter):
    """One short line for a person at a terminal."""

    def __init__(self, tracebacks: bool = False) -> None:
        super().__init__()
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with a traceback below it if those are wanted."""
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields = _fields(record)
        fields.pop("action", None)
        error = _error(record)
        if error is not None:
            where = error[1]
            while where is not None and where.tb_next is not None:
                where = where.tb_next
            place = f" at {where.tb_frame.f_globals.get('__name__')}:{where.tb_lineno}" if where else ""
            fields["exception"] = scrub(f"{type(error[0]).__name__}: {error[0]}") + place
        tail = "".join(f"  {name}={_plain(value)}" for name, value in fields.items())
        line = f"{at} {record.levelname.lower():<7} {_plain(scrub(record.getMessage()), quote=False)}{tail}"
        if error is not None and self._tracebacks:
            line += "\n" + scrub(self.formatException(record.exc_info))  # type: ignore[arg-type]
        return line


def _plain(value: object, quote: bool = True) -> str:
    """A value on one line, without anything that a terminal would obey."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if not text.isprintable():
        text = "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
    return json.dumps(text, ensure_ascii=False) if quote and (" " in text or not text) else text


class AccessLog:
    """Tornado's `log_function`: one line and one observation for each finished request.

    It reads a `tornado.web.RequestHandler` through its public attributes, and, where a handler has them,
    `principal` (who asked), `peer_id` (which node asked), `bytes_sent` (of a streamed body) and `route`.
    """

    def __init__(self, observe: Callable[[str, str, int, float], None] | None = None) -> None:
        """Make one; `observe` is told method, route, status and seconds."""
        self._observe = observe

    def __call__(self, handler: Any) -> None:
        """Log a finished request."""
        request, status = handler.request, handler.get_status()
        seconds = request.request_time()
        route = getattr(handler, "route", "") or type(handler).__name__
        if self._observe is not None:
            self._observe(request.method, route, status, seconds)
        quiet = request.path.startswith(("/health/", "/metrics")) and status < 400
        level = logging.DEBUG if quiet else logging.WARNING if status >= 500 else logging.INFO
        if not log.isEnabledFor(level):
            return
        fields: dict[str, object] = {
            "action": "request",
            "method": request.method,
            "path": request.uri,
            "status": status,
            "ms": round(seconds * 1000, 1),
            "bytes": _bytes_sent(handler),
            "remote": request.remote_ip,
        }
        optional = {
            "request_id": getattr(handler, "request_id", "") or request_id.get(),
            "account": getattr(getattr(handler, "principal", None), "name", ""),
            "peer": getattr(handler, "peer_id", ""),
            "range": request.headers.get("Range", "")[:100],
            "received": _length(request.headers.get("Content-Length")),
            "client": request.headers.get("User-Agent", "")[:120],
        }
        fields.update({name: value for name, value in optional.items() if value})
        log.log(level, "%s %s %d", request.method, request.path, status, extra=fields)


def _bytes_sent(handler: Any) -> int:
    sent = getattr(handler, "bytes_sent", None)
    if isinstance(sent, int):
        return sent
    if handler.request.method == "HEAD" or handler.get_status() in {204, 304}:
        return 0
    return _length(handler._headers.get("Content-Length"))


def _length(value: str | None) -> int:
    return int(value) if value is not None and value.isascii() and value.isdigit() and len(value) < 20 else 0


log = logging.getLogger(__name__)
