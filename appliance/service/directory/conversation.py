"""One connection to an LDAP server. Nothing is asked and no password sent before its certificate was checked.

ldap3 2.9.1 by itself takes any certificate, even after StartTLS, follows referrals, and turns some passwords into the
empty one (RFC 4013), which servers may take for nobody's. Here none of that can be reached: the handshake is Python's
own with name check, a connection without it refuses to bind and to search, referrals are never followed, and passwords
are sent byte for byte and never empty.
"""

import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import ldap3
from ldap3.core.exceptions import LDAPException, LDAPSocketOpenError, LDAPStartTLSError
from ldap3.core.results import RESULT_INVALID_CREDENTIALS, RESULT_REFERRAL, RESULT_SUCCESS
from pyasn1.error import PyAsn1Error

from appliance.domain.errors import DirectoryUnavailable, InvalidSettings

#: what ldap3 raises on what a server sends: its own errors, and those of code that met bytes it did not expect
_FAULTS = (
    LDAPException,
    PyAsn1Error,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
)
_NO_SUCH_OBJECT = 32
_SIZE_LIMIT = 4
#: the password is wrong, or the account may not sign in: locked (19, 53), without password (48), no such (32)
_REFUSED = {RESULT_INVALID_CREDENTIALS, _NO_SUCH_OBJECT, 19, 48, 50, 53}


class ServerFailed(DirectoryUnavailable):
    """A server did not do its part; the next one may."""

    def __init__(self, message: str = "", *, step: str = "search") -> None:
        super().__init__(message)
        self.step = step  #: "connect", "tls", "bind" or "search"


class TooMany(DirectoryUnavailable):
    """A search found more than it may: another server would find the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What a search found."""

    dn: str
    attributes: Mapping[str, Sequence[str]] = field(default_factory=dict)  #: by name in lower case

    def first(self, attribute: str) -> str:
        """The first value of an attribute, or ""."""
        return next(iter(self.attributes.get(attribute.lower(), ())), "")


class Trust:
    """Which certificates are believed."""

    def __init__(self, ca_file: str) -> None:
        """Read the authorities.

        Args:
            ca_file: PEM file; "" for those of the system.

        Raises:
            InvalidSettings: It cannot be read, or has none in it.
        """
        try:
            self.context = ssl.create_default_context(cafile=ca_file or None)
        except OSError as exc:
            raise InvalidSettings(
                f"directory.ca_file: {ca_file} cannot be read as certificates: {exc.strerror or exc}."
            ) from exc
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2


class _CheckedTls(ldap3.Tls):  # type: ignore[misc]
    """Python's handshake in place of ldap3's."""

    def __init__(self, trust: Trust, host: str) -> None:
        super().__init__(validate=ssl.CERT_REQUIRED)
        self._trust = trust
        self._host = host

    def wrap_socket(self, connection: Any, do_handshake: bool = False) -> None:
        connection.socket = self._trust.context.wrap_socket(connection.socket, server_hostname=self._host)


class _Connection(ldap3.Connection):  # type: ignore[misc]
    """As ldap3's, which leaves sockets open: of each address of a name that did not answer."""

    _socket: Any = None

    @property
    def socket(self) -> Any:
        """The one in use."""
        return self._socket

    @socket.setter
    def socket(self, new: Any) -> None:
        old, self._socket = self._socket, new
        if old is not None and old is not new:
            old.close()


class Conversation:
    """A connection whose certificate was checked."""

    def __init__(self, url: str, trust: Trust, *, connect_s: int, receive_s: int) -> None:
        parts = urlsplit(url)
        host = parts.hostname or ""
        self._implicit = parts.scheme == "ldaps"
        server = ldap3.Server(
            host,
            port=parts.port or (636 if self._implicit else 389),
            use_ssl=self._implicit,
            tls=_CheckedTls(trust, host),
            get_info=ldap3.NONE,
            connect_timeout=connect_s,
        )
        self._server = server
        self._receive_s = receive_s
        self._aborted = False
        self._connection = self._made("", b"")

    def _made(self, dn: str, password: bytes) -> Any:
        return _Connection(
            self._server,
            user=dn or None,
            password=password or None,
            authentication=ldap3.SIMPLE if dn else ldap3.ANONYMOUS,
            client_strategy=ldap3.SYNC,
            auto_bind=ldap3.AUTO_BIND_NONE,
            auto_referrals=False,
            auto_encode=True,
            check_names=False,
            read_only=True,
            raise_exceptions=False,
            receive_timeout=self._receive_s,
        )

    def open(self) -> str:
        """Connect and check the certificate; return the protocol, such as "TLSv1.3".

        Raises:
            ServerFailed: The server does not answer, or is not who it should be.
        """
        try:
            self._connection.open(read_server_info=False)
            self._connection.open = _never_again  # ldap3 would reconnect by itself, and without TLS
            if self._aborted:
                raise ServerFailed("it took too long", step="connect")
            if not self._implicit:
                self._connection.start_tls(read_server_info=False)
        except LDAPStartTLSError as exc:
            self.close()
            raise ServerFailed(_certificate(str(exc)) or f"it refuses StartTLS: {exc}", step="tls") from exc
        except _FAULTS as exc:
            self.close()
            certificate = _certificate(str(exc))
            step = "tls" if certificate or "ssl" in str(exc).lower() else "connect"
            raise ServerFailed(certificate or _reason(exc), step=step) from exc
        return self._checked_socket("tls").version() or ""

    def _checked_socket(self, step: str) -> ssl.SSLSocket:
        """The socket, if it speaks TLS with a certificate that was checked."""
        found = self._connection.socket
        if (
            not isinstance(found, ssl.SSLSocket)
            or found.context.verify_mode is not ssl.CERT_REQUIRED
            or not found.context.check_hostname
            or not found.getpeercert()
        ):
            self.close()
            raise ServerFailed("the connection is not protected by TLS", step=step)
        return found

    def bind(self, dn: str, password: str) -> str:
        """Sign in; "" for both is anonymous.

        Returns:
            "" if it worked, else why the server refused name or password.

        Raises:
            ServerFailed: The server did not say.
        """
        if bool(dn) != bool(password):
            return "an empty password is none"
        self._checked_socket("bind")
        secret = password.encode("utf-8", "surrogatepass")  # bytes, so that ldap3 leaves them as they are
        self._connection.user = dn or None
        self._connection.password = secret or None
        self._connection.authentication = ldap3.SIMPLE if dn else ldap3.ANONYMOUS
        result = self._asked("bind", lambda connection: connection.bind(read_server_info=False))
        code = result["result"]
        if code == RESULT_SUCCESS:
            return ""
        if code in _REFUSED:
            return _told(result)
        raise ServerFailed(_told(result), step="bind")

    def search(self, base: str, filter: str, attributes: Sequence[str], *, limit: int) -> list[Entry]:
        """Entries below `base`; references to other servers are left out.

        Raises:
            ServerFailed: The server did not answer, or not as it should.
            TooMany: There are more than `limit`.
        """
        self._checked_socket("search")
        result = self._asked(
            "search",
            lambda connection: connection.search(
                base,
                filter,
                search_scope=ldap3.SUBTREE,
                dereference_aliases=ldap3.DEREF_NEVER,
                attributes=list(attributes) or [ldap3.NO_ATTRIBUTES],
                size_limit=limit + 1,
                time_limit=self._receive_s,
            ),
        )
        found = [
            Entry(
                dn=item["dn"],
                attributes={name.lower(): _texts(values) for name, values in item["raw_attributes"].items()},
            )
            for item in self._connection.response or ()
            if item.get("type") == "searchResEntry"
        ]
        if result["result"] == _SIZE_LIMIT or len(found) > limit:
            raise TooMany(f"more than {limit} entries match {filter}")
        if result["result"] == RESULT_REFERRAL:
            raise ServerFailed(f"it refers to another server for {base}; name that server instead")
        if result["result"] == _NO_SUCH_OBJECT:
            raise ServerFailed(f"there is no {base} on it, or bind_dn may not see it")
        if result["result"] != RESULT_SUCCESS:
            raise ServerFailed(_told(result))
        return found

    def _asked(self, step: str, ask: Any) -> Any:
        try:
            ask(self._connection)
            result = self._connection.result
        except _FAULTS as exc:
            self.close()
            raise ServerFailed(_reason(exc), step=step) from exc
        if not isinstance(result, dict) or "result" not in result:
            self.close()
            raise ServerFailed("it ended the connection", step=step)
        return result

    def abort(self) -> None:
        """From another thread: end it now, whatever it waits for."""
        self._aborted = True
        found = self._connection.socket
        if isinstance(found, socket.socket):
            try:
                found.shutdown(socket.SHUT_RDWR)
            except OSError:  # it has ended by itself
                return

    def close(self) -> None:
        """Let go of it."""
        self._connection.socket = None
        self._connection.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()


def _never_again(**_: Any) -> None:
    raise LDAPSocketOpenError("the connection has ended")


def _texts(values: Sequence[bytes]) -> tuple[str, ...]:
    return tuple(value.decode("utf-8", "replace") for value in values)


def _told(result: Mapping[str, Any]) -> str:
    more = str(result.get("message") or "").replace("\0", "").strip()
    return f"{result['description']} ({more[:200]})" if more else str(result["description"])


def _certificate(text: str) -> str:
    """What is wrong with a certificate, in words, or ""."""
    if "CERTIFICATE_VERIFY_FAILED" not in text:
        return ""
    reason = text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0].rstrip(".')")
    return f"its certificate is refused: {reason or text}"


def _reason(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    if "timed out" in text:
        return "it did not answer in time"
    return text[:300]
