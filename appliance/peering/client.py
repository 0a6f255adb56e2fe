"""Calls to a peer's JSON endpoints: signed, bounded, without redirects. Bytes of packages go through `content`."""

import json
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import requests
from pydantic import BaseModel
from requests.adapters import HTTPAdapter

from appliance.domain.errors import PeerMisbehaved, PeerUnreachable, WireInvalid
from appliance.domain.manifest import Manifest

from .address import PeerAddress
from .answers import refusal
from .identity import Identity
from .signing import sign_request
from .tls import client_context
from .wire import Changes, NodeInfo, Registered, parse, parse_manifest

M = TypeVar("M", bound=BaseModel)

MAX_ANSWER = 40 * 1024 * 1024  #: bytes; a page of 500 records of 64 KiB
CONNECT_S = 5.0
READ_S = 30.0


class _Adapter(HTTPAdapter):
    """Connects with our TLS rules."""

    def __init__(self, address: PeerAddress) -> None:
        self._address = address
        super().__init__(pool_connections=1, pool_maxsize=4, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        if self._address.tls:
            pin = self._address.tls_fingerprint
            kwargs["ssl_context"] = client_context(pinned=bool(pin), ca_file=self._address.ca_file)
            if pin:
                kwargs.update(assert_fingerprint=pin, cert_reqs=ssl.CERT_NONE, assert_hostname=False)
        super().init_poolmanager(*args, **kwargs)

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        """Host and port of a request; its TLS rules are those of the pool, made above."""
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {}

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """The TLS context decides, not requests' settings."""


class PeerClient:
    """Calls one peer. Every method blocks, may be called from any thread, and raises only `PeerError`s."""

    def __init__(
        self,
        identity: Identity,
        address: PeerAddress,
        *,
        now: Callable[[], int],
        connect_s: float = CONNECT_S,
        read_s: float = READ_S,
    ) -> None:
        self.address = address
        self._identity = identity
        self._now = now
        self._timeouts = (connect_s, read_s)
        self._sessions = threading.local()

    def node(self) -> NodeInfo:
        """Who the peer is."""
        return self._read(NodeInfo, self._call("GET", "/peer/v1/node"))

    def register(self, registration: Mapping[str, Any]) -> Registered:
        """Ask to be registered with an invite."""
        return self._read(Registered, self._call("POST", "/peer/v1/registrations", registration))

    def leave(self) -> None:
        """End the registration of this node at the peer."""
        self._call("DELETE", f"/peer/v1/registrations/{self._identity.node_id}")

    def announce(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Say which records changed here: kind, id and revision of each."""
        self._call("POST", "/peer/v1/announcements", {"records": list(records)})

    def changes(self, since: int, feed: str, wait_s: float = 0.0) -> Changes:
        """A page of the peer's change feed behind position `since` of the feed `feed`."""
        answer = self._call(
            "GET", f"/peer/v1/changes?since={since}&feed={feed}&wait={wait_s:g}", extra_s=wait_s
        )
        return self._read(Changes, answer)

    def package(self, id: str) -> dict[str, Any]:
        """The full signed record of a package."""
        answer = self._call("GET", f"/peer/v1/packages/{id}")
        if not isinstance(answer, dict):
            raise PeerMisbehaved("Its package record is not an object.")
        return answer

    def manifest(self, id: str, sha256: str) -> Manifest:
        """The manifest of a package's bytes."""
        answer = self._call("GET", f"/peer/v1/packages/{id}/manifest?sha256={sha256}")
        try:
            return parse_manifest(answer)
        except WireInvalid as exc:
            raise PeerMisbehaved(exc.message) from exc

    @staticmethod
    def _read(model: type[M], answer: Any) -> M:
        try:
            return parse(model, answer)
        except WireInvalid as exc:
            raise PeerMisbehaved(exc.message) from exc

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._sessions, "session", None)
        if session is None:
            session = requests.Session()
            session.trust_env = False
            session.mount("http://", _Adapter(self.address))
            session.mount("https://", _Adapter(self.address))
            self._sessions.session = session
        return session

    def _call(self, method: str, path: str, data: Any = None, *, extra_s: float = 0.0) -> Any:
        url = self.address.url + path
        body = b"" if data is None else json.dumps(data, separators=(",", ":")).encode()
        own = {"Accept": "application/json"} | ({"Content-Type": "application/json"} if body else {})
        headers = sign_request(self._identity, method, url, body, now=self._now, headers=own)
        connect_s, read_s = self._timeouts
        try:
            with self._session().request(
                method,
                url,
                data=body or None,
                headers=headers,
                timeout=(connect_s, read_s + extra_s),
                allow_redirects=False,
                stream=True,
            ) as response:
                answer = _bounded(response)
                status = response.status_code
                lowered = {name.lower(): value for name, value in response.headers.items()}
        except (requests.RequestException, OSError) as exc:
            raise PeerUnreachable(f"{self.address.url} cannot be reached: {_reason(exc)}.") from exc
        if not 200 <= status < 300:
            raise refusal(status, lowered, answer)
        if not answer:
            return None
        try:
            return json.loads(answer)
        except (ValueError, RecursionError) as exc:
            raise PeerMisbehaved(f"{self.address.url} does not answer in JSON; is it a node?") from exc


def _bounded(response: requests.Response) -> bytes:
    """The decoded body, at most `MAX_ANSWER` bytes of it: a small compressed answer can hide a huge one."""
    parts: list[bytes] = []
    size = 0
    for block in response.iter_content(65_536):
        size += len(block)
        if size > MAX_ANSWER:
            raise PeerMisbehaved(f"Its answer is larger than {MAX_ANSWER} bytes.")
        parts.append(block)
    return b"".join(parts)


def _reason(exc: BaseException) -> str:
    """The innermost reason in a few words; requests wraps it several times over."""
    seen: BaseException | None = exc
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return f"its TLS certificate is not trusted ({seen.verify_message})"
        if isinstance(seen, OSError) and seen.strerror and not isinstance(seen, requests.RequestException):
            return seen.strerror
        inner = seen.args[0] if seen.args and isinstance(seen.args[0], BaseException) else None
        seen = getattr(seen, "reason", None) or inner or seen.__cause__ or seen.__context__
        if not isinstance(seen, BaseException):
            break
    if isinstance(exc, requests.Timeout):
        return "it does not answer in time"
    return type(exc).__name__
