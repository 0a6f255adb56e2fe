"""What every handler does: who is asking, may they, and how an error is answered."""

import base64
import hmac
import json
import logging
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeVar

import tornado.web
from pydantic import BaseModel, ValidationError

from appliance.domain.errors import (
    ApplianceError,
    InvalidInput,
    NotAuthenticated,
    PasswordChangeRequired,
    PermissionDenied,
    TooLarge,
)
from appliance.domain.precondition import Precondition
from appliance.domain.record import nested_too_deep
from appliance.log import request_id
from appliance.service.accounts import Principal, Role
from appliance.service.journal import remote_address
from appliance.service.scopes import check_scope
from appliance.service.sessions import Session
from appliance.store.filesystem import storage_error

from .app import App
from .cookies import BACKGROUND_HEADER, XSRF_HEADER, read_session
from .errors import CODES, problem, retry_after, status_of
from .faults import faults_of, sentence
from .models import NoQuery
from .parameters import CONDITIONS, check_names, read_precondition

log = logging.getLogger(__name__)

MAX_JSON = 1024 * 1024

M = TypeVar("M", bound=BaseModel)


class BaseHandler(tornado.web.RequestHandler):
    """Closed by default; answers errors as problem+json."""

    open: bool = False  #: whether anonymous callers may come in
    roles: ClassVar[Mapping[str, Role]] = {}  #: the least role for a method; others have the default
    elsewhere: ClassVar[tuple[str, ...]] = ()  #: methods of this address that another handler answers

    #: whether a session may come in whose account still has its generated password
    for_new_password: bool = False

    background: bool = False  #: asked by an open page by itself: it keeps no session open

    answers_head: bool = True  #: whether HEAD is GET without its body; not where GET never ends

    #: what GET takes in the query; other methods take nothing there
    query: ClassVar[type[BaseModel]] = NoQuery

    conditional: ClassVar[frozenset[str]] = frozenset()  #: methods that keep If-Match and its kin

    #: of what GET answers: the part of its ETag that If-Match compares, see domain.precondition
    version: str = ""

    principal: Principal | None = None
    session: Session | None = None  #: if the caller is a person in a browser
    request_id: str = ""

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Let HEAD answer as GET without the body (RFC 9110, 9.3.2), unless the handler has its own."""
        super().__init_subclass__(**keywords)
        if "get" in cls.__dict__ and "head" not in cls.__dict__ and cls.answers_head:
            cls.head = cls.__dict__["get"]

    @property
    def app(self) -> App:
        """The object graph."""
        app: App = self.application.settings["app"]
        return app

    def set_default_headers(self) -> None:
        """Headers of every answer, errors included."""
        self.clear_header("Server")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
        if self.request.path.startswith(("/api/", "/peer/")):
            self.set_header("Cache-Control", "no-store")
        if not self.request_id:
            self.request_id = secrets.token_hex(8)
        self.set_header("X-Request-Id", self.request_id)

    async def prepare(self) -> None:
        """Find out who asks, before any byte of a body is taken.

        Raises:
            NotAuthenticated: Nobody known, and the handler is not open.
            PermissionDenied: Role or scope do not suffice, or a page of another site sent this.
        """
        request_id.set(self.request_id)
        remote_address.set(self.request.remote_ip or "")
        if self.open:
            return
        self.principal = await self._authenticate()
        method = self.request.method or "GET"
        reading = method in {"GET", "HEAD", "OPTIONS"}
        if not self.principal.via.startswith("token ") and not reading:
            self.refuse_other_sites()
        if self.session is not None:
            self._guard_session(self.session, reading=reading)
        check_scope(self.principal.scopes, self.request.path, reading=reading)
        default = self.roles.get("GET", Role.VIEWER) if reading else Role.OPERATOR
        self.need(self.roles.get(method, default))
        if self.request.path.startswith("/api/v1/"):
            self._refuse_slips(method, reading=reading)

    def parameters(self, method: str) -> Iterable[str]:
        """The query parameters that a method takes."""
        return self.query.model_fields if method in {"GET", "HEAD"} else ()

    def _refuse_slips(self, method: str, *, reading: bool) -> None:
        """Refuse what would be passed over silently: it was meant to hold something back.

        Raises:
            InvalidInput: A parameter, a condition or a body that this call does not take.
        """
        check_names(self.request.query_arguments, self.parameters(method))
        headers = self.request.headers
        if method == "DELETE" and self.request.body.strip() not in {b"", b"{}"}:
            raise InvalidInput("DELETE takes no body here; to delete one revision only, send If-Match.")
        if not reading and method not in self.conditional:
            for name in CONDITIONS:
                if name in headers:
                    raise InvalidInput(f"{method} of this address takes no {name}; nothing was changed.")

    @property
    def precondition(self) -> Precondition | None:
        """What the request insists on.

        Raises:
            InvalidInput: The header is not written so.
        """
        return read_precondition(self.request.headers)

    def expected(
        self, name: str, revision: int, stated: int | None = None, *, changed_at: int = 0
    ) -> int | None:
        """The revision that a change must find, for a thing whose ETag begins with its revision.

        Args:
            name: Of the thing.
            revision: That it has.
            stated: The one that the body states, if any.
            changed_at: UTC milliseconds, if that is known.

        Raises:
            PreconditionFailed: The headers insist on another.
        """
        condition = self.precondition
        if condition is None:
            return stated
        condition.check(name, [str(revision)], changed_at)
        return revision if stated is None else stated

    def compute_etag(self) -> str | None:
        """Of the answer, with the version of what is answered before it, if it has one."""
        etag = super().compute_etag()
        return f'"{self.version}.{etag[1:17]}"' if etag and self.version else etag

    def _guard_session(self, session: Session, *, reading: bool) -> None:
        if session.must_change and not self.for_new_password:
            raise PasswordChangeRequired()
        if not reading and not hmac.compare_digest(self.xsrf_sent().encode(), session.xsrf.encode()):
            raise PermissionDenied(
                f"The change came without this session's token ({XSRF_HEADER}); load the page again."
            )

    def xsrf_sent(self) -> str:
        """What the caller sent as the session's token, or ""."""
        return self.request.headers.get(XSRF_HEADER, "")

    def refuse_other_sites(self) -> None:
        """Refuse what a page of another site sent.

        Browsers add a password that they remember to whatever any page sends; programs send no such headers.

        Raises:
            PermissionDenied: It did.
        """
        site = self.request.headers.get("Sec-Fetch-Site")  # not sent over plain HTTP
        origin = self.request.headers.get("Origin")
        if site is not None:
            foreign = site not in {"same-origin", "none"}
        else:
            foreign = origin is not None and origin.partition("://")[2].lower() != self.request.host.lower()
        if foreign:
            raise PermissionDenied(
                "A page of another site sent this with the browser's password; use a token there."
            )

    def need(self, role: Role) -> None:
        """Let only this role and those above it go on.

        Raises:
            PermissionDenied: The caller's is lower.
        """
        who = self.principal
        if who is None or who.role < role:
            raise PermissionDenied(
                f'This needs the role {role.word}; "{self.actor}" has the role {who.role.word if who else "none"}.'
            )

    async def _authenticate(self) -> Principal:
        kind, _, value = self.request.headers.get("Authorization", "").partition(" ")
        address = self.request.remote_ip or ""
        if kind.lower() == "bearer":
            return await self.app.accounts.tokens.check(value.strip(), address=address)
        if kind.lower() == "basic":
            try:
                name, colon, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
            except ValueError:
                colon = ""
            if not colon:
                raise NotAuthenticated("The Authorization header is not valid HTTP Basic.")
            return await self.app.accounts.sign_in(name, password, address=address)
        token = read_session(self) if not kind and "Cookie" in self.request.headers else ""
        if not token:
            raise NotAuthenticated()
        active = not self.background and BACKGROUND_HEADER not in self.request.headers
        self.session = await self.app.sessions.check(token, active=active)
        return self.session.principal

    @property
    def within(self) -> tuple[str, ...]:
        """The stages that who asks is limited to; none: all."""
        return self.principal.stages if self.principal else ()

    @property
    def actor(self) -> str:
        """The name of who asks, for records and events."""
        return self.principal.name if self.principal else "anonymous"

    def body_as(self, model: type[M]) -> M:
        """The JSON body as a model.

        Raises:
            InvalidInput: It is not valid; the message names the field.
            TooLarge: It is larger than 1 MiB.
        """
        if len(self.request.body) > MAX_JSON:
            raise TooLarge(f"A JSON body has at most {MAX_JSON} bytes.")
        try:
            data = json.loads(
                self.request.body or b"{}", parse_constant=_no_constant, object_pairs_hook=_each_once
            )
            # Numbers beyond every float and halves of surrogate pairs pass the parser; nothing can keep them.
            json.dumps(data, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError) as exc:
            raise InvalidInput("The body is not valid JSON, or has a name twice in one object.") from exc
        if nested_too_deep([data]):  # a record has one level more
            raise InvalidInput("The body has too many levels of objects and lists.")
        return self._validated(model, data)

    def query_as(self, model: type[M]) -> M:
        """The query parameters as a model; unknown ones are refused."""
        data = {name: self.get_query_argument(name) for name in self.request.query_arguments}
        return self._validated(model, data)

    @staticmethod
    def _validated(model: type[M], data: Any) -> M:
        try:
            return model.model_validate(data)
        except ValidationError as exc:
            faults = faults_of(exc, model.model_fields)
            raise InvalidInput(sentence(faults), fields=faults) from exc

    def write_json(self, data: Any, status: int = 200) -> None:
        """Answer with JSON."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(json.dumps(data, ensure_ascii=False, separators=(",", ":")))

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Known errors are answers, not faults; everything else is logged with its traceback."""
        if isinstance(value, ApplianceError | tornado.web.HTTPError):
            return
        if isinstance(value, OSError) and value.filename is not None:
            known = {"action": "storage_failed", "path": self.request.path, "error": str(value)}
            log.error("a file cannot be used", extra=known)
            return
        log.error(
            "a request failed",
            exc_info=(typ, value, tb),
            extra={"action": "request_failed", "path": self.request.path},
        )

    @classmethod
    def methods(cls) -> list[str]:
        """What can be done at this address."""
        missing = tornado.web.RequestHandler._unimplemented_method
        own = [name for name in cls.SUPPORTED_METHODS if getattr(cls, name.lower()) is not missing]
        return sorted({*own, *cls.elsewhere})

    @property
    def upload_hint(self) -> str:
        """The sentence for a file that is sent to where none is taken."""
        return f"To upload a file: curl -T FILE {self.app.node_url}/api/v1/packages/"

    def _allowed(self) -> str:
        """The sentence for a method that is not one of this address."""
        return f"This address takes {', '.join(self.methods())}."

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer an error as problem+json. Never a stack trace."""
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        if isinstance(error, OSError) and error.filename is not None:  # of a file, not of a connection
            error = storage_error(error)
        code, detail, details = "error", "", {}
        if isinstance(error, ApplianceError):
            status_code, code, detail, details = status_of(error), error.code, error.message, error.details
            after = retry_after(error)
            if after is not None:
                self.set_header("Retry-After", str(after))
        elif isinstance(error, tornado.web.HTTPError) or status_code < 500:
            code = CODES.get(status_code, "error")
            detail = getattr(error, "log_message", "") or self._reason
            if status_code == 405:  # RFC 9110, 15.5.6: with what there is
                self.set_header("Allow", ", ".join(self.methods()))
                detail = self._allowed()
        else:
            code = "internal_error"
            detail = f"Something went wrong here; the log has more under the request id {self.request_id}."
        if (
            status_code == 401 and XSRF_HEADER not in self.request.headers
        ):  # else the browser would ask, not we
            self.set_header("WWW-Authenticate", 'Basic realm="ODS", charset="UTF-8"')
        self.set_status(status_code)
        if self.request.headers.get("Transfer-Encoding") or int_or_0(
            self.request.headers.get("Content-Length")
        ):
            # The rest of a body may still be on its way; the connection is of no further use.
            self.set_header("Connection", "close")
        self.set_header("Content-Type", "application/problem+json; charset=utf-8")
        shown = {name: value for name, value in details.items() if _plain(value)}
        body = problem(status_code, code=code, detail=detail, request_id=self.request_id, details=shown)
        self.finish(json.dumps(body, ensure_ascii=False))


@tornado.web.stream_request_body
class NotFoundHandler(BaseHandler):
    """Whatever has no route. It streams so that a large body to a wrong address gets an answer, not a cut."""

    open = True

    async def prepare(self) -> None:
        """Say so."""
        await super().prepare()
        connection: Any = self.request.connection
        connection.set_max_body_size(int_or_0(self.request.headers.get("Content-Length")))
        hint = f" {self.upload_hint}" if self.request.method == "PUT" else ""
        if self.request.path.startswith("/api/v1/") and self.request.path.endswith("/"):
            hint = f" Addresses of the API end without a slash.{hint}"
        raise tornado.web.HTTPError(404, f"There is nothing at this address.{hint}")

    def data_received(self, chunk: bytes) -> None:
        """Drop it."""


def int_or_0(text: str | None) -> int:
    """A header's whole number, 0 if it is none."""
    return int(text) if text and text.isascii() and text.isdigit() else 0


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name is given twice")
    return found


def _plain(value: object) -> bool:
    return isinstance(value, str | int | float | bool | list | dict | None)
