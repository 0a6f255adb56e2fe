"""Webhooks of MDM servers: `POST /hooks/{server}`, or `/hooks/{server}/{secret}` for senders that can set no header.

Who sent it is known before its body is taken, and at most 1 MiB of a body is kept. A longer one is read to its end and
dropped, within a bound, so that the sender reads the answer.
"""

from typing import Any

import tornado.web

from appliance.domain.errors import ApplianceError, NotAuthenticated, NotFound, TooLarge
from appliance.domain.mdm_errors import HookInvalid, MdmNeedsAttention

from .base import BaseHandler, int_or_0
from .mdm import bridge_of

MAX_BODY = 1024 * 1024  #: bytes that are kept
DROP_MAX = 8 * 1024 * 1024  #: bytes of a refused body that are taken
BODY_S = 30.0  #: a body may take so long

ACCEPTED = 202
_REFUSALS: dict[int, tuple[type[ApplianceError], str]] = {
    400: (
        HookInvalid,
        "This is no webhook of that MDM: it is neither its JSON nor its XML, or names no event.",
    ),
    401: (NotAuthenticated, "The webhook's secret is missing or wrong."),
    404: (NotFound, "There is no MDM server of this id here."),
    413: (TooLarge, f"A webhook has at most {MAX_BODY} bytes."),
    502: (MdmNeedsAttention, "The driver of this MDM server is not there; see the node's MDM servers."),
}


@tornado.web.stream_request_body
class HookHandler(BaseHandler):
    """Takes one delivery."""

    open = True  # it has a secret of its own
    route = "HookHandler"

    def initialize(self) -> None:
        """Hide the secret in the path from whatever logs it."""
        parts = self.request.path.split("/", 3)
        self.request.path = "/".join([*parts[:3], "***"]) if len(parts) > 3 else self.request.path
        self.request.uri = self.request.path
        self._body = bytearray()
        self._fault: ApplianceError | None = None

    async def prepare(self) -> None:
        """Find out who sends it, before any byte of the body is kept."""
        await super().prepare()
        length = int_or_0(self.request.headers.get("Content-Length"))
        connection: Any = self.request.connection
        connection.set_max_body_size(DROP_MAX)
        connection.set_body_timeout(BODY_S)
        if self.request.method != "POST":
            return
        try:
            await self._admit(length)
        except ApplianceError as exc:
            body_comes = length or self.request.headers.get("Transfer-Encoding")
            if "Expect" in self.request.headers or not body_comes or length > DROP_MAX:
                raise
            self._fault = exc

    async def _admit(self, length: int) -> None:
        status = await bridge_of(self).admit_hook(
            self.path_args[0],
            path_secret=self.path_args[1] if len(self.path_args) > 1 else "",
            headers=dict(self.request.headers.get_all()),
            address=self.request.remote_ip or "",
        )
        if status != ACCEPTED:
            raise refusal(status)
        if length > MAX_BODY:
            raise refusal(413)

    def data_received(self, chunk: bytes) -> None:
        """Keep a block, or drop it."""
        if self._fault is None and len(self._body) + len(chunk) > MAX_BODY:
            self._fault = refusal(413)
        if self._fault is not None:
            self._body.clear()
        else:
            self._body += chunk

    async def post(self, server: str, *_secret: str) -> None:
        """Answer once the job is queued."""
        if self._fault is not None:
            raise self._fault
        content_type = self.request.headers.get("Content-Type", "")
        status = await bridge_of(self).take_hook(server, content_type=content_type, body=bytes(self._body))
        if status != ACCEPTED:
            raise refusal(status)
        self.write_json({}, status)


def refusal(status: int) -> ApplianceError:
    """The error that is answered with this status."""
    kind, message = _REFUSALS[status]
    return kind(message)


ROUTES = [(r"/hooks/([^/]+)", HookHandler), (r"/hooks/([^/]+)/([^/]+)", HookHandler)]
