"""What every page does: find out who is asking, send the headers that keep a page safe, answer errors as a page."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

import tornado.web

from appliance import __version__
from appliance.api.base import BaseHandler
from appliance.api.cookies import clear_session, write_session
from appliance.api.errors import retry_after, status_of
from appliance.domain.errors import ApplianceError, NotAuthenticated
from appliance.service.accounts import Principal, Role
from appliance.service.sessions import Session

from .marks import mark
from .navigation import sections
from .templating import render

SIGN_IN = "/ui/sign-in"
PASSWORD = "/ui/password"  # noqa: S105
HOME = "/ui/"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


class PageHandler(BaseHandler):
    """A page. Who has no session is sent to the sign-in page and comes back from there."""

    title = ""
    section = ""  #: the address of the navigation's entry that this page belongs to
    _mark = ""  #: taken before anything that the page shows is read

    def set_default_headers(self) -> None:
        """Scripts and styles from here only, no frames, nothing kept by others."""
        super().set_default_headers()
        self.set_header("Content-Security-Policy", POLICY)
        self.set_header("Referrer-Policy", "same-origin")
        self.set_header("Cross-Origin-Opener-Policy", "same-origin")
        self.set_header("Cross-Origin-Resource-Policy", "same-origin")
        self.set_header(
            "Permissions-Policy",
            "camera=(), microphone=(), geolocation=(), payment=(), usb=(), interest-cohort=()",
        )
        self.set_header("Cache-Control", "no-store")

    async def prepare(self) -> None:
        """Let those in who are signed in.

        Raises:
            PermissionDenied: The role does not suffice, or a form came without its token.
        """
        try:
            await super().prepare()
        except NotAuthenticated:
            if self.request.method not in {"GET", "HEAD"} or self.wants_json:
                raise
            self.redirect(f"{SIGN_IN}?{urlencode({'next': self.request.uri or HOME})}")
            return
        if self.session is not None and self.session.must_change and not self.for_new_password:
            self.redirect(PASSWORD)
        if self.session is not None:  # strangers do not learn how busy the node is
            self._mark = await mark(self.app)

    def _guard_session(self, session: Session, *, reading: bool) -> None:
        if session.must_change and not self.for_new_password and reading:
            return  # `prepare` leads to the page for it
        super()._guard_session(session, reading=reading)

    @property
    def wants_json(self) -> bool:
        """Whether a script asks."""
        return "application/json" in self.request.headers.get("Accept", "")

    def xsrf_sent(self) -> str:
        """The token of the form, or that of the header."""
        return super().xsrf_sent() or self.get_body_argument("_xsrf", "")

    async def open_session(self, principal: Principal) -> Session:
        """Start a session for somebody who has just proved who they are, and give it to the browser."""
        agent = self.request.headers.get("User-Agent", "")
        token, session = await self.app.sessions.start(
            principal, address=self.request.remote_ip or "", agent=agent
        )
        write_session(self, token, life_s=self.app.sessions.life_s)
        return session

    def page(self, template: str, status: int = 200, /, **values: Any) -> None:
        """Answer with a template."""
        role = self.principal.role if self.principal else None
        shared: Mapping[str, Any] = {
            "title": self.title,
            "section": self.section,
            "sections": sections(role) if role and not self._before_password else [],
            "me": self.principal,
            "can_operate": bool(role and role >= Role.OPERATOR),
            "can_admin": bool(role and role >= Role.ADMIN),
            "mark": self._mark,
            "xsrf": self.session.xsrf if self.session else "",
            "node": {
                "name": self.app.node_name,
                "id": self.app.identity.node_id,
                "stage": self.app.settings.node.stage,
            },
            "stages": self.app.settings.node.stages,
            "my_stages": self.within or self.app.settings.node.stages,
            "by_directory": bool(self.session and self.session.by_directory),
            "version": __version__,
            "secure": self.request.protocol == "https" or self.request.remote_ip in {"127.0.0.1", "::1"},
            "address": self.request.path,
        }
        self.set_status(status)
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(render(template, {**shared, **values}))

    @property
    def _before_password(self) -> bool:
        return bool(self.session and self.session.must_change)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """A page that says what happened; problem+json for a script."""
        if self.wants_json:
            super().write_error(status_code, **kwargs)
            return
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        if isinstance(error, NotAuthenticated):
            clear_session(self)
        detail = ""
        if isinstance(error, ApplianceError):
            status_code, detail = status_of(error), error.message
            after = retry_after(error)
            if after is not None:
                self.set_header("Retry-After", str(after))
        elif isinstance(error, tornado.web.HTTPError):
            detail = error.log_message or ""
            if status_code == 405:
                self.set_header("Allow", ", ".join(self.methods()))
        detail = detail or (
            "Something went wrong here. Try again; if it stays so, look for the request id in the node's log."
            if status_code >= 500
            else ""
        )
        try:
            phrase = HTTPStatus(status_code).phrase
        except ValueError:
            phrase = "Error"
        self.page(
            "error.html",
            status_code,
            title=phrase,
            detail=detail,
            status=status_code,
            request=self.request_id,
        )


class MissingPageHandler(PageHandler):
    """Whatever has no page below `/ui/`."""

    async def get(self, *_: str) -> None:
        """Say so."""
        raise tornado.web.HTTPError(404, "There is no page at this address.")


class RootHandler(BaseHandler):
    """`/`, `/ui` and the like lead to the pages."""

    open = True

    def get(self) -> None:
        """Go there."""
        self.redirect(HOME)
