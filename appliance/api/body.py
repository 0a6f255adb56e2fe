"""A request whose body streams into an upload.

The caller is known and everything that can be refused is refused in `prepare`, before the body. Who is refused while
a body comes is answered at once, and the rest of the body is taken and dropped: if the connection were closed over
unread bytes, its reset could reach the client before the answer. Past a bound it is closed all the same.
"""

import asyncio
import contextlib
import hashlib
import math
import time
from typing import Any

import tornado.escape
import tornado.ioloop
import tornado.web

from appliance.domain.errors import ApplianceError, NotSettled, StorageError, StoreUnavailable, TooLarge
from appliance.service.receiving import Receiver
from appliance.service.uploads import Outcome, Upload

from .base import BaseHandler, int_or_0
from .errors import status_of

BODY_S = 48 * 3600.0  #: a body may take so long
SILENT_S = 60.0  #: a client that sends nothing for so long is gone
DROP_MAX = 64 * 1024 * 1024  #: bytes of a refused body that are taken
DROP_S = 20.0  #: seconds for which they are taken
MISMATCH = 460  #: tus: checksum mismatch


class BodyHandler(BaseHandler):
    """A handler whose body streams into an upload."""

    upload: Upload | None = None
    receiver: Receiver | None = None
    remember = True  #: whether the id of a complete upload is to answer for a while
    _stack: contextlib.AsyncExitStack | None = None
    _error: ApplianceError | tornado.web.HTTPError | None = None
    _wanted = b""
    _useless = False  #: what arrived can never become a package
    _answered = False  #: while a refused body is dropped
    _dropped = 0
    _dropped_since = 0.0
    _gone = False
    _heard = 0.0

    async def prepare(self) -> None:
        """Find out who asks and open the upload."""
        try:
            await super().prepare()
            if self.request.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise tornado.web.HTTPError(415, "Send the bytes as they are, without Content-Encoding.")
            await self.open_body()
        except (ApplianceError, tornado.web.HTTPError) as exc:
            length = int_or_0(self.request.headers.get("Content-Length"))
            if "Expect" in self.request.headers or not (
                length or self.request.headers.get("Transfer-Encoding")
            ):
                raise  # no body is on its way
            connection: Any = self.request.connection
            connection.set_max_body_size(max(length, 2 * DROP_MAX))
            self._refuse(exc)

    async def open_body(self) -> None:
        """Check the request and call `begin`, if its body is to be taken."""

    def _refuse(self, error: ApplianceError | tornado.web.HTTPError) -> None:
        """Answer now, and drop the body that still comes."""
        self._error = error
        # Whatever the method would do at the end of the body, it must not: the caller was refused.
        setattr(self, (self.request.method or "").lower(), self._end)
        self._let_go()
        self._dropped_since = time.monotonic()
        status = error.status_code if isinstance(error, tornado.web.HTTPError) else status_of(error)
        self.send_error(status, exc_info=(type(error), error, error.__traceback__))

    def _end(self, *_: str) -> None:
        super().finish()

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> "asyncio.Future[None]":
        """End the answer; while a refused body still comes, only send it."""
        if self._error is None:
            return super().finish(chunk)
        if not self._answered and chunk is not None:
            self._answered = True
            data = tornado.escape.json_encode(chunk) if isinstance(chunk, dict) else chunk
            data = tornado.escape.utf8(data)
            self.set_header("Content-Length", str(len(data)))
            self.write(data)
            return self.flush()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    async def begin(self, upload: Upload, offset: int) -> None:
        """Let the body continue an upload at `offset`; call it in `prepare`."""
        left = self.app.uploads.max_size if upload.size is None else upload.size - offset
        length = self.request.headers.get("Content-Length")
        if length is not None and int_or_0(length) > left:
            raise TooLarge(f"The body has {length} bytes, but the upload has room for {left}.")
        kind, self._wanted = self._checksum()
        stack = contextlib.AsyncExitStack()
        receiver = await stack.enter_async_context(
            self.app.uploads.receiving(upload, offset, self._interrupted)
        )
        self.upload, self.receiver, self._stack = upload, receiver, stack
        if self._gone:  # the client left while the file was read
            self._let_go()
            raise tornado.web.Finish
        if kind:
            receiver.checksum = hashlib.new(kind, usedforsecurity=False)
        self._limit = offset + left
        connection: Any = self.request.connection
        # A body of unknown length is counted here: Tornado would answer 400, and nothing else.
        connection.set_max_body_size(left if length is not None else left + 2 * DROP_MAX)
        connection.set_body_timeout(BODY_S)
        self._listen()

    def _checksum(self) -> tuple[str, bytes]:
        """The kind and value of the checksum that the body must have, if any."""
        return "", b""

    def _listen(self) -> None:
        """Let go of a client that says nothing: it may be gone without a word."""
        loop = asyncio.get_running_loop()
        self._heard = loop.time()

        def look() -> None:
            if self._stack is None:
                return
            rest = self._heard + SILENT_S - loop.time()
            if rest > 0:
                loop.call_later(rest, look)
            else:
                self._interrupted()

        loop.call_later(SILENT_S, look)

    def _interrupted(self) -> None:
        """End this request at once; what arrived stays."""
        stream = getattr(self.request.connection, "stream", None)
        if stream is not None:
            stream.close()

    async def data_received(self, chunk: bytes) -> None:
        """Take a block of the body."""
        if self._error is not None:
            self._dropped += len(chunk)
            slow = time.monotonic() - self._dropped_since > DROP_S
            if (self._dropped > DROP_MAX or slow) and not self._finished:
                super().finish()  # over an unread body, which closes the connection
        elif self.receiver is not None:
            try:
                if self.receiver.offset + len(chunk) > self._limit:
                    raise TooLarge(f"The body is longer than the {self._limit} bytes that were promised.")
                self._heard = math.inf  # who waits now is the client
                await self.receiver.write(chunk)
                self.app.metrics.uploaded(len(chunk))
            except ApplianceError as exc:
                self._useless = not self.remember  # nobody knows its id, so nobody goes on with it
                self._refuse(exc)
            finally:
                self._heard = asyncio.get_running_loop().time()

    async def body_ended(self) -> Outcome | None:
        """The body is here: complete the upload if that was all of it.

        Raises:
            ApplianceError: What went wrong while it arrived.
        """
        assert self.upload is not None
        assert self.receiver is not None
        assert self._stack is not None
        if self.remember:
            return await self._ended(self._stack)
        try:
            return await self._ended(self._stack)
        except (StoreUnavailable, NotSettled):  # the bytes are here, and `finish` goes on later
            raise
        except StorageError:  # nobody knows its id: what arrived would only take room
            with contextlib.suppress(StorageError):  # it expires
                await self.app.uploads.forget(self.upload.id)
            raise

    async def _ended(self, stack: contextlib.AsyncExitStack) -> Outcome | None:
        assert self.upload is not None
        assert self.receiver is not None
        async with stack:
            self._stack = None
            await self.receiver.flush()
            if (
                self.receiver.checksum is not None
                and self.receiver.checksum.hexdigest() != self._wanted.hex()
            ):
                await self.receiver.rewind(self.upload.offset)
                raise tornado.web.HTTPError(
                    MISMATCH, "The body does not have the checksum.", reason="Checksum Mismatch"
                )
            if self.upload.size in {None, self.receiver.offset} and not self.upload.part:
                return await self.app.uploads.complete(self.upload, self.receiver, remember=self.remember)
            await self.app.uploads.rest(self.upload, self.receiver)
        return None

    def on_connection_close(self) -> None:
        """The connection broke: what arrived stays."""
        self._gone = True
        super().on_connection_close()
        self._let_go()

    def on_finish(self) -> None:
        """Whatever happened: let go of the upload."""
        self._let_go()

    def _let_go(self) -> None:
        if self._stack is not None:
            stack, self._stack = self._stack, None
            tornado.ioloop.IOLoop.current().add_callback(self._leave, stack)

    async def _leave(self, stack: contextlib.AsyncExitStack) -> None:
        assert self.upload is not None
        assert self.receiver is not None
        nothing = not self.receiver.offset and not self.remember  # and nobody knows its id
        useless = nothing or self._useless
        with contextlib.suppress(ApplianceError):  # it was answered, or there is nobody to be told
            async with stack:
                if self.receiver.sound and not useless:
                    await self.app.uploads.rest(self.upload, self.receiver)
        if useless:
            with contextlib.suppress(ApplianceError):
                await self.app.uploads.forget(self.upload.id)
