"""Signing in, and what is known of the account and the server."""

import base64
import datetime
import secrets
import time

from .base import Handler


def new_token(handler: Handler) -> tuple[str, float]:
    """A token and its life in seconds."""
    token = secrets.token_urlsafe(32)
    life = handler.state.faults.token_life_s
    handler.state.tokens[token] = time.monotonic() + life
    if len(handler.state.tokens) > 1000:
        now = time.monotonic()
        handler.state.tokens = {key: until for key, until in handler.state.tokens.items() if until > now}
    return token, life


class OauthHandler(Handler):
    """`POST /api/v1/oauth/token` and the older `/api/oauth/token`. Errors have the form of RFC 6749."""

    open_to_all = True

    def post(self) -> None:
        if self.request.path == "/api/v1/oauth/token" and self.state.version < (11, 10):
            self.fail(404)
            return
        given = (self.get_body_argument("client_id", ""), self.get_body_argument("client_secret", ""))
        if self.get_body_argument("grant_type", "") != "client_credentials":
            self.answer(
                {"error": "unsupported_grant_type", "error_description": "OAuth 2.0 Parameter: grant_type"},
                400,
            )
        elif given != (self.state.client_id, self.state.client_secret):
            uri = "https://datatracker.ietf.org/doc/html/rfc6749#section-5.2"
            self.answer({"error": "invalid_client", "error_description": "Client authentication failed",
                         "error_uri": uri}, 401)  # fmt: skip
        else:
            token, life = new_token(self)
            self.answer(
                {
                    "access_token": token,
                    "token_type": "Bearer",
                    "scope": "api-role:1",
                    "expires_in": int(life),
                }
            )


class UserTokenHandler(Handler):
    """`POST /api/v1/auth/token` with HTTP Basic."""

    open_to_all = True

    def post(self) -> None:
        wanted = base64.b64encode(f"{self.state.username}:{self.state.password}".encode()).decode()
        if self.request.headers.get("Authorization") != f"Basic {wanted}":
            self.fail(401, "INVALID_TOKEN", description="Unauthorized")
            return
        _answer_token(self)


class KeepAliveHandler(Handler):
    """`POST /api/v1/auth/keep-alive`: a new token; the old one is dead."""

    def post(self) -> None:
        del self.state.tokens[self.request.headers["Authorization"].removeprefix("Bearer ")]
        _answer_token(self)


class InvalidateHandler(Handler):
    """`POST /api/v1/auth/invalidate-token`."""

    def post(self) -> None:
        del self.state.tokens[self.request.headers["Authorization"].removeprefix("Bearer ")]
        self.set_status(204)


def _answer_token(handler: Handler) -> None:
    token, life = new_token(handler)
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=life)
    handler.answer(
        {"token": token, "expires": until.isoformat(timespec="milliseconds").replace("+00:00", "Z")}
    )


class AuthHandler(Handler):
    """`GET /api/v1/auth`."""

    def get(self) -> None:
        account = {
            "id": "7", "username": self.state.account, "realName": "", "email": "", "preferences": {},
            "multiSiteAdmin": False, "accessLevel": "FullAccess", "privilegeSet": "CUSTOM",
            "privilegesBySite": {"-1": sorted(self.state.privileges)}, "groupIds": [], "currentSiteId": "-1",
        }  # fmt: skip
        self.answer(
            {"account": account, "accountGroups": [], "sites": [], "authenticationType": "CLIENT_CREDENTIALS"}
        )


class VersionHandler(Handler):
    """`GET /api/v1/jamf-pro-version`."""

    def get(self) -> None:
        self.answer({"version": f"{self.state.version_text}-t1784555528405"})


class HealthHandler(Handler):
    """`GET /api/v1/health-check`."""

    open_to_all = True

    def get(self) -> None:
        self.set_status(204)


ROUTES = [
    (r"/api/(?:v1/)?oauth/token", OauthHandler),
    (r"/api/v1/auth/token", UserTokenHandler),
    (r"/api/v1/auth/keep-alive", KeepAliveHandler),
    (r"/api/v1/auth/invalidate-token", InvalidateHandler),
    (r"/api/v1/auth", AuthHandler),
    (r"/api/v1/jamf-pro-version", VersionHandler),
    (r"/api/v1/health-check", HealthHandler),
]
