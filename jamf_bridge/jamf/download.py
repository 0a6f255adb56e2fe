"""Downloads from signed URLs: no credentials, bounded by the stated length, resumed by Range.

A URL that has expired (403, 410) is resolved again and the download goes on at the same byte. A connection that is
lost is tried again as long as some of the tries bring bytes.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import httpx

from .answers import retry_after
from .errors import JamfNotFound, JamfServerError, JamfSurprise, JamfUnreachable

log = logging.getLogger(__name__)

FRUITLESS = 6  #: so many tries in a row without a byte end it
SILENCE_S = 60.0
_LONGEST_WAIT_S = 30.0
_EXPIRED = {401, 403, 410}


@dataclass(frozen=True, slots=True)
class SignedUrl:
    """A URL that carries its own permission: whoever has it can fetch. Its text is never shown."""

    url: str
    expires_at: int | None  #: epoch seconds, if the URL says

    @classmethod
    def of(cls, url: str) -> "SignedUrl":
        """Read when it expires."""
        stated = parse_qs(urlsplit(url).query).get("Expires", [""])[0]
        return cls(url, int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 12 else None)

    def __repr__(self) -> str:
        return f"SignedUrl({urlsplit(self.url).hostname!r}, expires_at={self.expires_at})"


class Download:
    """One file."""

    def __init__(
        self,
        resolve: Callable[[], Awaitable[SignedUrl]],
        length: int,
        client: httpx.AsyncClient,
        *,
        file_name: str,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Prepare a download; nothing is asked yet.

        Args:
            resolve: Gives a URL; called again when one has expired.
            length: Bytes that the record states.
            client: Without credentials.
            file_name: For messages.
            sleep: Waits so many seconds.
        """
        self._resolve = resolve
        self._length = length
        self._client = client
        self._name = file_name
        self._sleep = sleep
        self._etag = ""

    async def stream(self, offset: int = 0) -> AsyncIterator[bytes]:
        """The bytes from `offset` to the stated length.

        Raises:
            JamfUnreachable: Several tries in a row brought nothing.
            JamfNotFound: The file is gone.
            JamfSurprise: The server answers with other bytes than those that were asked for.
        """
        url: SignedUrl | None = None
        fruitless = 0
        reason = ""
        while offset < self._length:
            if fruitless >= FRUITLESS:
                raise JamfUnreachable(f'"{self._name}" cannot be fetched from the cloud: {reason}.')
            if fruitless:
                await self._sleep(min(_LONGEST_WAIT_S, 0.5 * 2**fruitless))
            if url is None or (url.expires_at is not None and url.expires_at <= time.time()):
                url = await self._resolve()
            before = offset
            try:
                async for block in self._part(url, offset):
                    offset += len(block)
                    yield block
            except _Expired:
                url, reason = None, "its URL expires at once"
            except _Waiting as exc:
                reason = "the cloud asks to wait"
                await self._sleep(min(_LONGEST_WAIT_S, exc.seconds))
            except httpx.HTTPError as exc:
                reason = (
                    "no answer in time" if isinstance(exc, httpx.TimeoutException) else type(exc).__name__
                )
            else:
                reason = "it ends too early"
            fruitless = 0 if offset > before else fruitless + 1
            if offset < self._length:
                log.info(
                    "a cloud download goes on",
                    extra={"action": "cloud_resume", "offset": offset, "reason": reason},
                )

    async def _part(self, url: SignedUrl, offset: int) -> AsyncIterator[bytes]:
        """What one request brings, from `offset` on."""
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if self._etag:
                headers["If-Range"] = self._etag
        async with self._client.stream("GET", url.url, headers=headers) as response:
            self._accept(response, offset)
            left = self._length - offset
            skip = (
                offset if response.status_code == 200 else 0
            )  # it does not do ranges: what is here is passed over
            # Without a block size: httpx would gather, and lose what it gathered with the connection.
            async for block in response.aiter_raw():
                part = block[skip:] if skip else block
                skip = max(0, skip - len(block))
                if len(part) > left:
                    raise JamfSurprise(
                        f'"{self._name}" has more bytes than its record states ({self._length}).'
                    )
                left -= len(part)
                if part:
                    yield part

    def _accept(self, response: httpx.Response, offset: int) -> None:
        """Let an answer be read whose bytes are those that were asked for."""
        status = response.status_code
        if status in _EXPIRED:
            raise _Expired
        if status in {404, 416}:
            raise JamfNotFound(
                f'"{self._name}" is not in the cloud as its record states ({status}).', status=status
            )
        if status in {429, 503}:
            raise _Waiting(retry_after(response.headers) or 2.0)
        if status >= 500:
            raise httpx.RemoteProtocolError(f"status {status}")
        if status not in {200, 206}:
            raise JamfServerError(f'The cloud answered {status} for "{self._name}".', status=status)
        if response.headers.get("content-encoding", "identity") != "identity":
            raise JamfSurprise(f'The cloud compresses "{self._name}", which it was not asked for.')
        etag = response.headers.get("etag", "")
        if self._etag and etag and etag != self._etag:
            raise JamfSurprise(f'"{self._name}" changed in the cloud while it was fetched.')
        self._etag = etag if etag.startswith('"') else self._etag
        if status == 206 and response.headers.get("content-range", "").partition("-")[0] != f"bytes {offset}":
            raise JamfSurprise(f'The cloud answered another range of "{self._name}" than was asked for.')


class _Expired(Exception):
    """The URL is no longer good."""


class _Waiting(Exception):
    """The cloud asks to wait."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
