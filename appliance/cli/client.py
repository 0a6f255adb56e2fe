"""Speaking to a node's admin API. Every failure becomes a `CommandFailed` with its exit code."""

import base64
import getpass
import re
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import requests
import urllib3
from requests.adapters import HTTPAdapter

from appliance import __version__
from appliance.api.schemas import TEXT, Schema

from .answers import READY, Answer, answer_schema, misfit
from .exits import CommandFailed, ExitCode, for_status
from .profile import Connection

API = "/api/v1"
BLOCK = 1024 * 1024  #: bytes read from a file at once while it is sent
CONNECT_S = 10.0
READ_S = 120.0  #: registering with a slow peer takes a while
_POLL_S = 0.25
_STREAMED = 64 * 1024  #: bytes of an answer that are read at once
_PROBLEM: Schema = {"type": "object", "properties": {"detail": TEXT, "code": TEXT}, "required": ["detail"]}


class _Adapter(HTTPAdapter):
    """Sends bodies in large blocks, and trusts a pinned certificate alone."""

    def __init__(self, fingerprint: str) -> None:
        self._fingerprint = fingerprint
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **keywords: Any) -> None:
        """Make the pools with our options."""
        if self._fingerprint:
            keywords["assert_fingerprint"] = self._fingerprint
        super().init_poolmanager(*arguments, blocksize=BLOCK, **keywords)


class NodeClient:
    """One node, as one caller."""

    def __init__(self, connection: Connection) -> None:
        self.url = connection.url
        self._session = requests.Session()
        # Neither ~/.netrc nor a proxy for the web: nodes are in the own network, and tokens go nowhere else.
        self._session.trust_env = False
        self._session.headers["User-Agent"] = f"ods/{__version__}"
        self._session.mount(self.url, _Adapter(connection.fingerprint))
        if connection.fingerprint:
            # The fingerprint is checked instead of name and authority, not beside them.
            self._session.verify = False
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        elif connection.ca_file:
            self._session.verify = connection.ca_file
        if connection.token:
            self._session.headers["Authorization"] = f"Bearer {connection.token}"
        elif connection.user:
            pair = f"{connection.user}:{connection.password or ask_password(connection.user)}"
            self._session.headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all connections."""
        self._session.close()

    def get(self, path: str, **query: Any) -> Any:
        """GET a path below /api/v1 and return the JSON."""
        return self._answer("GET", path, params=_given(query))

    def post(self, path: str, body: Any = None) -> Any:
        """POST JSON and return the answer's."""
        return self._answer("POST", path, json={} if body is None else body)

    def patch(self, path: str, body: Any) -> Any:
        """PATCH JSON and return the answer's."""
        return self._answer("PATCH", path, json=body)

    def delete(self, path: str, *, revision: int | None = None) -> Any:
        """DELETE, if it is to be only that revision; return the answer's JSON, or None."""
        return self._answer("DELETE", path, headers=if_revision(revision))

    def pages(self, path: str, **query: Any) -> Iterator[Any]:
        """Every item of a list, page by page."""
        cursor: str | None = None
        while True:
            page = self.get(path, **query, cursor=cursor, limit=500)
            yield from page["items"]
            cursor = page["next"]
            if cursor is None:
                return

    def ready(self) -> dict[str, Any]:
        """The node's readiness, whether it is ready or not."""
        answer = self._send("GET", f"{self.url}/health/ready", timeout=(CONNECT_S, READ_S))
        if answer.status_code not in {200, 503}:
            raise failure(answer)
        ready: dict[str, Any] = self._json(answer, READY)
        return ready

    def _answer(self, method: str, path: str, **keywords: Any) -> Any:
        """Make a request; the answer's JSON, of the shape that the API gives it, or None if it gives nothing."""
        answer, schema = self.call(method, path, **keywords), answer_schema(method, path)
        if schema is not None:
            return self._json(answer, schema)
        if answer.content:
            raise self._foreign("it is not empty")
        return None

    def _json(self, answer: requests.Response, schema: Schema) -> Any:
        try:
            found = answer.json(object_hook=lambda fields: Answer(fields, self._foreign))
        except (ValueError, RecursionError) as exc:
            raise self._foreign("it is not JSON") from exc
        fault = misfit(found, schema)
        if fault:
            raise self._foreign(fault)
        return found

    def read(self, path: str, *, media: str, **query: Any) -> Iterator[bytes]:
        """GET what is no JSON: its blocks, as they come.

        Raises:
            CommandFailed: It is of another type.
        """
        answer = self.call("GET", path, params=_given(query), stream=True)
        found = answer.headers.get("Content-Type", "").partition(";")[0]
        if found != media:
            raise self._foreign(f"it is {found or 'of no type'}, not {media}")
        return self._blocks(answer)

    def _blocks(self, answer: requests.Response) -> Iterator[bytes]:
        try:
            yield from answer.iter_content(_STREAMED)
        except requests.exceptions.RequestException as exc:
            raise CommandFailed(f"{self.url} broke off: {_reason(exc)}.", ExitCode.UNREACHABLE) from exc

    def header(self, answer: requests.Response, name: str) -> str:
        """A header that an answer of a node has.

        Raises:
            CommandFailed: It has none.
        """
        if name not in answer.headers:
            raise self._foreign(f"{name} is missing")
        return answer.headers[name]

    def offset(self, answer: requests.Response, size: int) -> int:
        """How many bytes of an upload of this size the node has, as it answers.

        Raises:
            CommandFailed: The answer does not say.
        """
        text = self.header(answer, "Upload-Offset")
        if not re.fullmatch("[0-9]{1,18}", text) or int(text) > size:
            raise self._foreign(f"Upload-Offset is {text}")
        return int(text)

    def _foreign(self, fault: str) -> CommandFailed:
        return CommandFailed(
            f"{self.url} does not answer as a node of version {__version__} does ({fault}); is this a node's URL?"
        )

    def call(self, method: str, path: str, **keywords: Any) -> requests.Response:
        """Make a request below /api/v1, or to an absolute URL of this node.

        Raises:
            CommandFailed: The node cannot be reached, or answers an error.
        """
        target = path if path.startswith(f"{self.url}/") else f"{self.url}{API}{path}"
        answer = self._send(method, target, **keywords)
        if answer.status_code >= 300:
            raise failure(answer)
        return answer

    def _send(self, method: str, target: str, **keywords: Any) -> requests.Response:
        keywords.setdefault("timeout", (CONNECT_S, READ_S))
        try:
            return self._session.request(method, target, allow_redirects=False, **keywords)
        except requests.exceptions.SSLError as exc:
            raise CommandFailed(
                f"The certificate of {self.url} is not trusted. For a self-signed one, sign in with `ods login`, or "
                "give --fingerprint or --ca-file.",
                ExitCode.UNREACHABLE,
                {"reason": str(exc)},
            ) from exc
        except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as exc:
            raise CommandFailed(
                f"The node {self.url} cannot be reached: {_reason(exc)}. Is it running, and is ODS_URL right?",
                ExitCode.UNREACHABLE,
            ) from exc
        except requests.exceptions.RequestException as exc:
            raise CommandFailed(f"The node {self.url} does not answer as a node does: {exc}.") from exc
        except OSError as exc:  # a CA file that is not there
            raise CommandFailed(str(exc), ExitCode.USAGE) from exc

    def wait_for_job(self, id: str, *, watch: Callable[[Any], None] = lambda _: None) -> Any:
        """Wait until a job has ended; return it."""
        while True:
            job = self.get(f"/jobs/{id}")
            watch(job)
            if job["state"] not in {"todo", "doing"}:
                return job
            time.sleep(_POLL_S)


def if_revision(revision: int | None) -> dict[str, str]:
    """The header by which a change is made to this revision only; none for None."""
    return {} if revision is None else {"If-Match": f'"{revision}"'}


def failure(answer: requests.Response) -> CommandFailed:
    """What an error answer means."""
    try:
        problem = answer.json()
        fault = misfit(problem, _PROBLEM)
    except (ValueError, RecursionError):
        fault = "it is not JSON"
    if fault:
        return CommandFailed(
            f"{answer.request.url}: unexpected answer {answer.status_code} {answer.reason}; is this a node's URL?",
            for_status(answer.status_code),
            {"status": answer.status_code},
        )
    detail: str = problem["detail"]
    known = {name: value for name, value in problem.items() if name not in {"type", "title", "detail"}}
    if answer.status_code == 401 and "Authorization" not in answer.request.headers:
        detail = "Sign in first: `ods login URL`, or set ODS_TOKEN, or ODS_USER and ODS_PASSWORD."
    return CommandFailed(detail, for_status(answer.status_code), known)


def segment(name: str) -> str:
    """A name as one segment of a path.

    Raises:
        CommandFailed: The terminal sent bytes that are no text in UTF-8.
    """
    try:
        return quote(name, safe="")
    except UnicodeEncodeError as exc:
        raise CommandFailed("The name is not valid Unicode.", ExitCode.USAGE) from exc


def ask_password(user: str) -> str:
    """Ask the person at the terminal.

    Raises:
        CommandFailed: There is nobody.
    """
    if not sys.stdin.isatty():
        raise CommandFailed(f'Set ODS_PASSWORD to the password of "{user}".', ExitCode.USAGE)
    return getpass.getpass(f"Password of {user}: ")


def _given(query: dict[str, Any]) -> dict[str, Any]:
    shown = {name: value for name, value in query.items() if value not in (None, "")}
    return {name: str(value).lower() if isinstance(value, bool) else value for name, value in shown.items()}


def _reason(exc: BaseException) -> str:
    """The innermost reason of a failed connection, in few words."""
    inner: BaseException | None = exc
    text = "no answer"
    while inner is not None:
        if isinstance(inner, TimeoutError | requests.exceptions.Timeout):
            return "no answer in time"
        if isinstance(inner, OSError) and inner.strerror:
            text = inner.strerror
        following = inner.__cause__ or inner.__context__
        if following is None and inner.args and isinstance(inner.args[0], BaseException):
            following = getattr(inner.args[0], "reason", None) or inner.args[0]
        inner = following if following is not inner else None
    return text
