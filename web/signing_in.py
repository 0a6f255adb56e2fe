"""Sign in and out, and passwords. A session is opened here and nowhere else; everything else is the admin API's."""

import hmac
import secrets

from appliance.api.cookies import clear_session, read_form_key, read_session, write_form_key
from appliance.domain.errors import (
    DirectoryUnavailable,
    InvalidInput,
    NotAuthenticated,
    PermissionDenied,
    TooManyAttempts,
)
from appliance.service.sessions import Session

from .pages import HOME, PASSWORD, SIGN_IN, PageHandler


def safe_next(address: str) -> str:
    """Where to go afterwards: a page of ours, whatever was asked for."""
    inside = address.startswith(HOME) and "\\" not in address and address.isprintable()
    return address if inside and not address.startswith(SIGN_IN) else HOME


class SignInHandler(PageHandler):
    """`/ui/sign-in`."""

    open = True
    title = "Sign in"

    async def get(self) -> None:
        """The form; for a script, what the form has to repeat."""
        if not self.wants_json and await self._signed_in():
            self.redirect(safe_next(self.get_query_argument("next", HOME)))
            return
        self._show()

    async def post(self) -> None:
        """Check name and password, and open a session."""
        self.refuse_other_sites()
        key = read_form_key(self)
        if not key or not hmac.compare_digest(self.xsrf_sent().encode(), key.encode()):
            if self.wants_json:
                raise PermissionDenied("The form is too old; load the page again.")
            self._show(200, "The form was too old. Please try again.")
            return
        name = self.get_body_argument("name", "")
        password = self.get_body_argument("password", "", strip=False)
        try:
            if not name or not password:
                raise NotAuthenticated("Give a name and a password.")
            principal = await self.app.accounts.sign_in(name, password, address=self.request.remote_ip or "")
        except NotAuthenticated as exc:
            self._refuse(401, exc)
            return
        except TooManyAttempts as exc:
            self.set_header("Retry-After", str(exc.details["retry_after"]))
            self._refuse(429, exc)
            return
        except DirectoryUnavailable as exc:
            self._refuse(503, exc)
            return
        session = await self.open_session(principal)
        if self.wants_json:
            self.write_json(_shown(session))
        else:
            self.redirect(
                PASSWORD if session.must_change else safe_next(self.get_body_argument("next", HOME)),
                status=303,
            )

    async def _signed_in(self) -> bool:
        try:
            await self.app.sessions.check(read_session(self))
        except NotAuthenticated:
            return False
        return True

    def _refuse(self, status: int, error: NotAuthenticated | TooManyAttempts | DirectoryUnavailable) -> None:
        if self.wants_json:
            raise error
        self._show(status, error.message)

    def _show(self, status: int = 200, error: str = "") -> None:
        key = read_form_key(self)
        if not key:
            key = secrets.token_urlsafe(24)
            write_form_key(self, key)
        if self.wants_json:
            self.write_json({"form": key})
            return
        following = self.get_argument("next", HOME)
        name = self.get_body_argument("name", "")
        self.page("sign_in.html", status, form_key=key, error=error, next=safe_next(following), name=name)


class SignOutHandler(PageHandler):
    """`/ui/sign-out`."""

    for_new_password = True

    async def post(self) -> None:
        """End this session."""
        if self.session is not None:
            await self.app.sessions.end(self.session.id, self.session.principal)
        clear_session(self)
        self.redirect(SIGN_IN, status=303)


class PasswordHandler(PageHandler):
    """`/ui/password`: one's own."""

    for_new_password = True
    title = "Your password"
    section = PASSWORD

    async def get(self) -> None:
        """The form."""
        self._show()

    async def post(self) -> None:
        """Set a new password. Every session of the account ends; this browser gets a new one."""
        assert self.principal is not None
        if self.session is not None and self.session.by_directory:
            self._show(409)
            return
        new = self.get_body_argument("password", "", strip=False)
        current = self.get_body_argument("current", "", strip=False)
        address = self.request.remote_ip or ""
        if new != self.get_body_argument("again", "", strip=False):
            self._show(400, "again", "The two do not match.")
            return
        try:
            await self.app.accounts.sign_in(self.principal.name, current, address=address)
        except (NotAuthenticated, TooManyAttempts) as exc:
            wrong = isinstance(exc, NotAuthenticated)
            self._show(
                403 if wrong else 429, "current", "This is not your password." if wrong else exc.message
            )
            return
        if new == current:
            self._show(400, "password", "Choose another password than the one you have.")
            return
        try:
            await self.app.accounts.change_user(self.principal.name, password=new, actor=self.principal.name)
        except InvalidInput as exc:
            self._show(400, "password", exc.message)
            return
        await self.open_session(self.principal)
        self.redirect(HOME, status=303)

    def _show(self, status: int = 200, field: str = "", reason: str = "") -> None:
        self.page(
            "password.html", status, errors={field: reason} if field else {}, forced=self._before_password
        )


def _shown(session: Session) -> dict[str, object]:
    return {
        "account": session.principal.name,
        "role": session.principal.role.word,
        "xsrf": session.xsrf,
        "must_change": session.must_change,
    }
