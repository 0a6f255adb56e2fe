"""What every call of the fake has in common: faults, sign-in, privileges, the journal, the forms of errors."""

import asyncio
import json
import time
from typing import Any, ClassVar

import tornado.web

from .state import State

LOGIN_PAGE = (
    b"<!DOCTYPE html><html><head><title>Jamf Pro Login</title></head><body><form>Sign in</form></body></html>"
)


class ApiError(Exception):
    """An answer of the form ApiError."""

    def __init__(self, status: int, code: str = "", field: str = "", description: str = "") -> None:
        super().__init__(code)
        self.status = status
        errors = [{"code": code, "field": field, "description": description, "id": None}] if code else []
        self.body = {"httpStatus": status, "errors": errors}


class Handler(tornado.web.RequestHandler):
    """A call of the API."""

    privileges: ClassVar[dict[str, str]] = {}  #: method to the privilege that it needs
    open_to_all: ClassVar[bool] = False
    classic: ClassVar[bool] = False
    account = ""

    @property
    def state(self) -> State:
        """The server."""
        state: State = self.settings["state"]
        return state

    async def prepare(self) -> None:
        """Faults first, as a proxy or an overloaded server would; then sign-in and privilege."""
        faults = self.state.faults
        if faults.latency_s:
            await asyncio.sleep(faults.latency_s)
        if faults.login_page:
            self.set_header("Content-Type", "text/html")
            self.finish(LOGIN_PAGE)
            return
        if faults.busy > 0:
            faults.busy -= 1
            self.set_header("Retry-After", "1")
            self.fail(faults.busy_status)
            return
        status, left = faults.refuse.get(self.request.path, [0, 0])
        if left > 0:
            faults.refuse[self.request.path] = [status, left - 1]
            self.fail(status)
            return
        if faults.fail > 0:
            faults.fail -= 1
            self.fail(500, "SYSTEM_EXCEPTION")
            return
        if self.open_to_all:
            return
        token = self.request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.state.tokens.get(token, 0) < time.monotonic():
            self.fail(401, "INVALID_TOKEN", description="Unauthorized")
            return
        if faults.refuse_tokens > 0:
            faults.refuse_tokens -= 1
            del self.state.tokens[token]
            self.fail(401, "INVALID_TOKEN", description="Unauthorized")
            return
        self.account = self.state.account
        needed = self.privileges.get(self.request.method or "", "")
        if self.state.version < (11, 20):
            needed = needed.replace("Cloud Distribution Service", "Content Distribution Server")
        if needed and needed not in self.state.privileges:
            self.fail(403, "INVALID_PRIVILEGE", description="Forbidden")

    def body_json(self) -> dict[str, Any]:
        """The body as a JSON object."""
        try:
            data = json.loads(self.request.body)
        except ValueError as exc:
            raise ApiError(400, "INVALID_JSON") from exc
        if not isinstance(data, dict):
            raise ApiError(400, "INVALID_JSON")
        return data

    def answer(self, data: Any, status: int = 200) -> None:
        """JSON, of any form."""
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(data))

    def fail(self, status: int, code: str = "", field: str = "", description: str = "") -> None:
        """An error, in the form of this API."""
        self.set_status(status)
        if self.classic:
            self.set_header("Content-Type", "text/html;charset=utf-8")
            self.finish(
                f"<html><body><p style='x'>Conflict</p><p>Error: {description or code}</p></body></html>"
            )
        else:
            self.answer(ApiError(status, code, field, description).body, status)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """An exception."""
        error = kwargs.get("exc_info", (None, None))[1]
        if isinstance(error, ApiError):
            self.answer(error.body, error.status)
        elif self.classic:
            self.fail(status_code, "", description="System error")
        else:
            self.answer({"httpStatus": status_code, "errors": []}, status_code)

    def log_exception(self, *arguments: Any) -> None:
        """Quiet for errors that are answers."""
        if not isinstance(arguments[1], ApiError | tornado.web.HTTPError):
            super().log_exception(*arguments)

    def on_finish(self) -> None:
        """Into the journal."""
        type_ = self.request.headers.get("Content-Type", "")
        textual = "json" in type_ or "xml" in type_ or "urlencoded" in type_
        body = self.request.body.decode("utf-8", "replace") if textual and self.request.body else ""
        if "urlencoded" in type_:
            body = ""  # secrets
        self.state.journal.append(
            {"method": self.request.method, "path": self.request.path, "query": self.request.query, "type": type_,
             "body": body, "status": self.get_status(), "at": time.time(),
             "authorization": "Authorization" in self.request.headers}
        )  # fmt: skip

    def told(self, operation: str, kind: str, name: str, id: int) -> None:
        """Tell the webhooks of a call of the API: also of those of the bridge, which is how loops begin."""
        if self.state.faults.hooks_for_api:
            self.settings["sender"].rest_operation(operation, kind, name, id, self.account)


def page_of(handler: Handler, items: list[dict[str, Any]]) -> dict[str, Any]:
    """A page of a list, as page, page-size and sort ask for it."""
    page = int(handler.get_argument("page", "0"))
    size = int(handler.get_argument("page-size", "100"))
    if page < 0 or size < 1:
        raise ApiError(400, "INVALID_FIELD", "page-size")
    faults = handler.state.faults
    size = min(size, faults.page_most)
    for sort in reversed(handler.get_arguments("sort")):
        name, _, direction = sort.partition(":")
        items.sort(key=lambda item: (int(item[name]) if name == "id" else str(item.get(name, ""))),
                   reverse=direction == "desc")  # fmt: skip
    return {"totalCount": len(items) + faults.count_more, "results": items[page * size : (page + 1) * size]}
