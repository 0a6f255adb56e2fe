import errno
import io
import json
import logging
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.errors import StorageFull, StoreUnavailable
from appliance.log import AccessLog, KnownConditions, configure, new_request_id, request_id, scrub

SECRET = "kT9vX2mQ7pLw4ZcB8nRd"
INVITE = "ods1.eyJ1cmwiOiJodHRwczovL25vZGUiLCJzZWNyZXQiOiJ4In0"


@pytest.fixture
def lines() -> Iterator[Callable[..., list[str]]]:
    """Configure logging to a buffer, and read what was written."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()

    def read(**options: Any) -> list[str]:
        if options:
            configure(stream=stream, **options)
            return []
        return stream.getvalue().splitlines()

    yield read
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Basic {SECRET}",
        f"authorization=Bearer {SECRET}",
        f"{{'Authorization': 'Bearer {SECRET}'}}",
        f"sent Bearer {SECRET} to the peer",
        f"token ods_a1b2c3_{SECRET}",
        f"Cookie: session={SECRET}; theme={SECRET}",
        f"mongodb://ods:{SECRET}@db.example:27017/ods",
        f"mongodb://ods:pass@{SECRET}@db.example/ods",
        f"https://user:{SECRET}@host/path",
        f"GET /x?token={SECRET}&a=1",
        f"GET /x?access_token={SECRET}",
        f"GET /x?X-Amz-Signature={SECRET}&X-Amz-Date=1",
        f"GET /x?key={SECRET}",
        f'{{"password": "{SECRET} and {SECRET}", "a": 1}}',
        f"password={SECRET}",
        f"password: {SECRET}",
        f"ODS_ADMIN_PASSWORD={SECRET}",
        f"secret='{SECRET} {SECRET}'",
        f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----",
        f"-----BEGIN EC PRIVATE KEY-----\n{SECRET}",
        f"joined with {INVITE}{SECRET}",
    ],
)
def test_secrets_are_hidden(text: str) -> None:
    assert SECRET not in scrub(text)
    assert "[hidden]" in scrub(text)


@pytest.mark.parametrize(
    "text",
    [
        "basic rules of the game apply",
        "bearer of bad news",
        "the invite has expired: ask for another",
        "GET /Packages/Secret%20Agent-1.2.pkg 206",
        "GET /api/v1/tokens/a1b2c3",
        "GET /x?since=5&feed=abc&sha256=00ff",
        "token count 5",
        "https://node-b.example:8443/peer/v1/changes",
        "mongodb://db.example:27017/ods",
    ],
)
def test_harmless_text_stays(text: str) -> None:
    assert scrub(text) == text


@given(st.text(max_size=200))
def test_scrubbing_twice_is_scrubbing_once(text: str) -> None:
    assert scrub(scrub(text)) == scrub(text)


def test_scrubbing_long_hostile_text_takes_no_time() -> None:
    for text in (
        "a" * 200_000 + "://" + "b:" * 100_000,
        "password=" * 30_000,
        "token" + "-" * 200_000,
        "bearer " * 40_000,
    ):
        scrub(text)  # quadratic patterns would run into the time-out of the suite


def test_a_json_line_has_the_fields_and_no_secret(lines: Any) -> None:
    lines(format="json", level="info")
    token = request_id.set("req1")
    try:
        logging.getLogger("appliance.x").info(
            "joined\nwith %s",
            INVITE,
            extra={
                "action": "peer_joined",
                "count": 3,
                "password": SECRET,
                "api_token": SECRET,
                "url": f"https://u:{SECRET}@h/",
                "nested": {"authorization": SECRET, "list": [f"token={SECRET}"]},
            },
        )
        logging.getLogger("appliance.x").debug("not shown")
    finally:
        request_id.reset(token)
    [line] = lines()
    assert SECRET not in line
    got = json.loads(line)
    assert got["message"] == "joined\nwith ods1.[hidden]"
    assert (got["action"], got["count"], got["request_id"], got["level"]) == (
        "peer_joined",
        3,
        "req1",
        "info",
    )
    assert got["password"] == got["api_token"] == got["nested"]["authorization"] == "[hidden]"
    assert got["time"].endswith("Z")
    assert "traceback" not in got


def test_a_traceback_is_a_scrubbed_field(lines: Any) -> None:
    lines(format="json", level="info")
    try:
        raise ValueError(f"cannot open mongodb://ods:{SECRET}@db/")
    except ValueError:
        logging.getLogger("appliance.x").exception("It broke")
    [line] = lines()
    got = json.loads(line)
    assert SECRET not in line
    assert got["exception"].startswith("ValueError: cannot open mongodb://")
    assert got["traceback"].startswith("Traceback")


def test_the_console_shows_one_line_without_traceback_or_control_characters(lines: Any) -> None:
    lines(format="console", level="info")
    try:
        raise ValueError(f"token={SECRET}")
    except ValueError:
        logging.getLogger("appliance.x").exception("It\nbroke \x1b[31m", extra={"action": "x", "file": "a b"})
    [line] = lines()
    assert SECRET not in line
    assert "It\\nbroke \\x1b[31m" in line
    assert 'file="a b"' in line
    assert "ValueError" in line
    assert "Traceback" not in line


def test_the_console_shows_tracebacks_at_level_debug(lines: Any) -> None:
    lines(format="console", level="debug")
    try:
        raise ValueError("x")
    except ValueError:
        logging.getLogger("appliance.x").exception("It broke")
    assert any(line.startswith("Traceback") for line in lines())


def test_what_cannot_be_json_is_written_as_text(lines: Any) -> None:
    lines(format="json", level="info")
    logging.getLogger("appliance.x").info("odd", extra={"thing": object(), "bytes": b"\xff", "many": {1, 2}})
    [line] = lines()
    assert json.loads(line)["thing"].startswith("<object")


def test_auto_is_json_where_nobody_looks(lines: Any) -> None:
    lines(format="auto", level="info")
    logging.getLogger("appliance.x").info("hello")
    assert json.loads(lines()[0])["message"] == "hello"


def test_request_ids_differ() -> None:
    assert len({new_request_id() for _ in range(100)}) == 100


def _handler(**changes: Any) -> Any:
    fields: dict[str, Any] = {
        "method": "GET",
        "path": "/Packages/a.pkg",
        "uri": f"/Packages/a.pkg?token={SECRET}",
        "remote_ip": "192.0.2.7",
        "headers": {"Range": "bytes=0-99", "Authorization": f"Basic {SECRET}", "User-Agent": "curl/8"},
        "request_time": lambda: 0.25,
    }
    status = changes.pop("status", 206)
    attributes = {key: changes.pop(key) for key in ("bytes_sent", "principal", "route") if key in changes}
    request = SimpleNamespace(**{**fields, **changes})
    return SimpleNamespace(
        request=request, get_status=lambda: status, _headers={"Content-Length": "100"}, **attributes
    )


def test_the_access_log_says_who_got_what(lines: Any) -> None:
    lines(format="json", level="info")
    seen: list[tuple[Any, ...]] = []
    access = AccessLog(lambda *observed: seen.append(observed))
    access(_handler(route="content", bytes_sent=40, principal=SimpleNamespace(name="ada")))
    [line] = lines()
    assert SECRET not in line
    got = json.loads(line)
    assert (got["method"], got["path"], got["status"], got["ms"]) == (
        "GET",
        "/Packages/a.pkg?token=[hidden]",
        206,
        250.0,
    )
    assert (got["bytes"], got["range"], got["account"], got["remote"]) == (
        40,
        "bytes=0-99",
        "ada",
        "192.0.2.7",
    )
    assert seen == [("GET", "content", 206, 0.25)]


def test_the_access_log_counts_no_bytes_that_were_not_sent(lines: Any) -> None:
    lines(format="json", level="info")
    access = AccessLog()
    access(_handler(method="HEAD", status=200))
    access(_handler(status=304))
    access(_handler(status=200))
    assert [json.loads(line)["bytes"] for line in lines()] == [0, 0, 100]


def test_probes_are_quiet_until_they_fail(lines: Any) -> None:
    lines(format="json", level="info")
    access = AccessLog()
    access(_handler(path="/health/ready", uri="/health/ready", status=200))
    assert lines() == []
    access(_handler(path="/health/ready", uri="/health/ready", status=503))
    assert json.loads(lines()[0])["level"] == "warning"


def test_known_conditions_are_a_line_without_a_traceback_and_at_most_once_a_minute() -> None:
    clock = [0.0]
    said = KnownConditions(lambda: clock[0])

    def record(exc: BaseException | None, **extra: object) -> logging.LogRecord:
        exc_info = (type(exc), exc, None) if exc else None
        made = logging.LogRecord("x", logging.ERROR, "f", 1, "it failed", (), exc_info)
        vars(made).update(extra)
        return made

    for error in (StoreUnavailable("away"), StorageFull("full"), OSError(errno.ENOSPC, "No space")):
        first = record(error)
        assert said.filter(first)
        assert first.exc_info is None
        assert first.error  # type: ignore[attr-defined]
        assert not said.filter(record(error))
    told = record(None, error="StorageFull: full", msg="a job failed")  # as the runner of jobs tells it
    assert said.filter(told)
    assert not said.filter(told)
    clock[0] = 61
    again = record(StorageFull("full"))
    assert said.filter(again)
    assert again.repeated == 1  # type: ignore[attr-defined]
    unknown = record(ValueError("a fault of ours"))
    assert said.filter(unknown)
    assert said.filter(unknown)
    assert unknown.exc_info is not None


class FullDisk(io.StringIO):
    """A stream whose disk is full for a while."""

    is_full = True

    def write(self, text: str) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(text)


def test_lines_that_cannot_be_written_are_counted(
    lines: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    stream = FullDisk()
    configure(stream=stream, format="json")
    for _ in range(3):
        logging.getLogger("x").warning("lost")
    stream.is_full = False
    logging.getLogger("x").warning("written", extra={"action": "done", "package": "x.pkg"})
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["message"] for line in found] == ["log lines were lost", "written"]
    own = {name: value for name, value in found[0].items() if name != "time"}
    assert own == {
        "level": "warning",
        "logger": "appliance.log",
        "message": "log lines were lost",
        "action": "log_lost",
        "count": 3,
    }
    assert capsys.readouterr().err == ""
