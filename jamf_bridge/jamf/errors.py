"""What a Jamf Pro server can answer, as typed errors. None of them ever carries a token, a password or a signed URL."""

from collections.abc import Sequence


class JamfError(Exception):
    """A call to Jamf Pro did not work.

    Attributes:
        call: Method and path, without query, such as "GET /api/v1/packages".
        status: The HTTP status, 0 if there was none.
        codes: Jamf Pro's own codes, such as "DUPLICATE_FIELD".
        field: The field that the first code is about, "" if none.
    """

    def __init__(
        self, message: str, *, call: str = "", status: int = 0, codes: Sequence[str] = (), field: str = ""
    ) -> None:
        super().__init__(message)
        self.call = call
        self.status = status
        self.codes = tuple(codes)
        self.field = field


class JamfUnreachable(JamfError):
    """No answer: name, connection or time."""


class JamfTlsError(JamfError):
    """The server's certificate cannot be trusted, or TLS failed otherwise."""


class JamfNotJamf(JamfError):
    """Something answered that is not Jamf Pro's API: a login page, a proxy, another URL."""


class JamfAuthenticationError(JamfError):
    """The credentials were refused."""


class JamfAuthorizationError(JamfError):
    """A privilege is missing; `privilege` is its name in Jamf Pro, "" if it is not known."""

    def __init__(self, message: str, *, privilege: str = "", call: str = "", status: int = 403) -> None:
        super().__init__(message, call=call, status=status)
        self.privilege = privilege


class JamfNotFound(JamfError):
    """There is no such record, or no such call in this version."""


class JamfConflict(JamfError):
    """It exists already, or contradicts what is there."""


class JamfInvalid(JamfError):
    """The server refused what was sent; `field` says which part."""


class JamfBusy(JamfError):
    """The server asks to wait; `retry_after` in seconds, None if it does not say how long."""

    def __init__(
        self, message: str, *, retry_after: float | None = None, call: str = "", status: int = 0
    ) -> None:
        super().__init__(message, call=call, status=status)
        self.retry_after = retry_after


class JamfServerError(JamfError):
    """The server failed."""


class JamfSurprise(JamfError):
    """An answer that the API does not describe."""


class JamfIncomplete(JamfError):
    """A list that lacks records by its own count. What it lacks is not gone."""
