"""Requests to one Jamf Pro server: signed in, at most five at a time, tried again where that is safe.

Jamf advises five concurrent connections and that cookies are sent back, because its cloud is a cluster that agrees
with itself once a minute. Calls that change nothing twice (GET, PUT, DELETE) are tried again on lost connections and
on 408, 429, 500, 502, 503 and 504; POST and PATCH only when the server says that it did not take them (429, 503).
"""

import asyncio
import logging
import os
import random
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from .answers import error_of, json_of, retry_after
from .credentials import CredentialsProvider
from .errors import JamfError, JamfNotJamf, JamfSurprise, JamfTlsError, JamfUnreachable

log = logging.getLogger(__name__)

MAX_ANSWER = 64 * 1024 * 1024  #: bytes of one answer
TRIES = 5
_AGAIN = {408, 429, 500, 502, 503, 504}
_IDEMPOTENT = {"GET", "HEAD", "PUT", "DELETE"}
_LONGEST_WAIT_S = 60.0

PathMapper = Callable[
    [str], str
]  #: from a path of this page to that of the server: for gateways before Jamf Pro


@dataclass(frozen=True, slots=True)
class Deprecation:
    """A call that the server says will go away."""

    path: str
    deprecation: str  #: the header Deprecation, as it was sent
    sunset: str  #: the header Sunset


class Session:
    """Sends requests."""

    def __init__(
        self,
        url: str,
        credentials: CredentialsProvider,
        *,
        verify: bool = True,
        ca_file: Path | None = None,
        timeout_s: float = 30.0,
        max_connections: int = 5,
        user_agent: str = "ods-jamf-bridge",
        transport: httpx.AsyncBaseTransport | None = None,
        paths: PathMapper | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        self.requests_made = 0
        self.notices: list[Deprecation] = []
        self._credentials = credentials
        self._paths = paths or (lambda path: path)
        self._sleep = sleep
        self._slots = asyncio.Semaphore(max_connections)
        self._client = httpx.AsyncClient(
            base_url=self.url,
            verify=_tls(verify, ca_file),
            timeout=timeout_s,
            limits=httpx.Limits(
                max_connections=max_connections + 1, max_keepalive_connections=max_connections
            ),
            headers={"User-Agent": user_agent, "Accept": "application/json"},
            follow_redirects=False,
            trust_env=False,
            transport=transport,
        )

    async def close(self) -> None:
        """Sign out and let go of the connections."""
        try:
            await self._credentials.close(self._unsigned)
        except JamfError as exc:
            log.debug("signing out failed: %s", exc)
        await self._client.aclose()

    async def json(self, method: str, path: str, **options: Any) -> Any:
        """Call the Pro API; return the JSON body, None if there is none.

        Args:
            method: GET, POST, ...
            path: Such as /api/v1/packages.
            **options: httpx's params, json, content, headers, files, data, timeout.

        Raises:
            JamfError: As its subclasses say.
        """
        status, _, body = await self.call(method, path, **options)
        return json_of(body, f"{method} {path}", status)

    async def call(self, method: str, path: str, **options: Any) -> tuple[int, Mapping[str, str], bytes]:
        """Call any path, signed in; return status, headers and body of a success.

        Raises:
            JamfError: As its subclasses say.
        """
        renewed = False
        attempt = 0
        while True:
            token = await self._credentials.token(self._unsigned)
            headers = {**options.get("headers", {}), "Authorization": f"Bearer {token}"}
            try:
                status, answered, body = await self._send(method, path, **{**options, "headers": headers})
            except JamfUnreachable:
                attempt += 1
                if method not in _IDEMPOTENT or attempt >= TRIES:
                    raise
                await self._sleep(_back_off(attempt))
                continue
            if 200 <= status < 300:
                return status, answered, body
            if status == 401 and not renewed:
                renewed = True
                self._credentials.refused(token)
                continue
            attempt += 1
            again = status in _AGAIN if method in _IDEMPOTENT else status in {429, 503}
            wait = retry_after(answered)
            if not again or attempt >= TRIES or (wait or 0) > _LONGEST_WAIT_S:
                if 300 <= status < 400:
                    raise JamfNotJamf(
                        f"{method} {path} was answered by a redirection ({status}): give the URL that it leads to.",
                        call=f"{method} {path}",
                        status=status,
                    )
                raise error_of(method, path, status, answered, body)
            await self._sleep(_back_off(attempt) if wait is None else wait)

    async def _unsigned(self, method: str, path: str, **options: Any) -> tuple[int, Mapping[str, Any]]:
        """Send a request of the credentials; 2xx and refusals are returned."""
        for attempt in range(1, TRIES + 1):
            try:
                status, headers, body = await self._send(method, path, **options)
            except JamfUnreachable:
                if attempt == TRIES:
                    raise
                await self._sleep(_back_off(attempt))
                continue
            if status in _AGAIN and attempt < TRIES:
                wait = retry_after(headers)
                await self._sleep(_back_off(attempt) if wait is None else min(wait, _LONGEST_WAIT_S))
                continue
            break
        if status not in {200, 204, 400, 401, 403}:
            if 300 <= status < 400:
                raise JamfNotJamf(
                    f"{path} was answered by a redirection ({status}); check the URL.", status=status
                )
            raise error_of(method, path, status, headers, body)
        data = json_of(body, f"{method} {path}", status)
        if data is not None and not isinstance(data, dict):
            raise JamfSurprise(
                "The answer to a sign-in is no JSON object.", call=f"{method} {path}", status=status
            )
        return status, data or {}

    async def _send(self, method: str, path: str, **options: Any) -> tuple[int, Mapping[str, str], bytes]:
        """One request and its bounded answer; any status."""
        call = f"{method} {path}"
        async with self._slots:
            self.requests_made += 1
            try:
                async with self._client.stream(method, self._paths(path), **options) as response:
                    body = bytearray()
                    async for block in response.aiter_bytes():
                        body += block
                        if len(body) > MAX_ANSWER:
                            raise JamfSurprise(
                                f"{call}: the answer has more than {MAX_ANSWER} bytes.", call=call
                            )
                    headers = {name.lower(): value for name, value in response.headers.items()}
                    self._notice(path, headers)
                    return response.status_code, headers, bytes(body)
            except httpx.HTTPError as exc:
                raise _broken(exc, self.url, call) from exc
            except httpx.InvalidURL as exc:
                raise JamfUnreachable(f"{self.url} is no URL that can be called.", call=call) from exc

    def _notice(self, path: str, headers: Mapping[str, str]) -> None:
        deprecation, sunset = headers.get("deprecation", ""), headers.get("sunset", "")
        root = "/".join(path.split("/")[:5])
        if (deprecation or sunset) and all(notice.path != root for notice in self.notices):
            self.notices.append(Deprecation(root, deprecation[:100], sunset[:100]))
            log.warning("Jamf Pro will drop a call: %s (%s %s)", root, deprecation[:100], sunset[:100])


def _tls(verify: bool, ca_file: Path | None) -> ssl.SSLContext | bool:
    if not verify:
        return False
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # some builds of Python leave the choice to OpenSSL
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError) as exc:
            raise JamfTlsError(f"{ca_file} holds no certificates: {exc}") from exc
    return context


def _back_off(attempt: int) -> float:
    return min(10.0, 0.25 * 2.0**attempt) * (0.5 + random.random())


def _broken(exc: httpx.HTTPError, url: str, call: str) -> JamfError:
    reason = type(exc).__name__
    seen: BaseException | None = exc
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError):
            return JamfTlsError(
                f"The certificate of {url} cannot be trusted: {seen.verify_message}.", call=call
            )
        if isinstance(seen, ssl.SSLError):
            return JamfTlsError(f"TLS with {url} failed: {seen.reason or 'protocol error'}.", call=call)
        if isinstance(seen, OSError) and seen.errno:
            named = isinstance(seen, socket.gaierror)  # its numbers are not those of the system
            reason = (named and seen.strerror) or os.strerror(seen.errno)
        seen = seen.__cause__ or seen.__context__
    if isinstance(exc, httpx.TimeoutException):
        reason = "it does not answer in time"
    return JamfUnreachable(f"{url} cannot be reached: {reason}.", call=call)
