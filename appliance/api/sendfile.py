"""Sends a stretch of a file as a response body, by the fastest sound way.

On plain HTTP and Linux: `os.sendfile` on the connection's socket, when Tornado has nothing else to write there. What
the disk must be asked for is read in a thread first, so that a slow disk holds up one download and not the event loop.
Elsewhere (TLS, other systems, `ODS_PORTABLE=1`): read 256 KiB, write, flush. Tornado has no public way for the first;
what is used of its inside is in `_TornadoSocket`, pinned by a test.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import tornado.iostream
import tornado.web

from appliance.store.filesystem import in_memory, portable, read_ahead, unreadable

BLOCK = 262_144
_SEND = 4 * 1024 * 1024
_TURN = 16 * 1024 * 1024  #: bytes after which other connections get their turn
SLOW_S = 60.0  #: a reader that takes nothing for so long is dropped

Count = Callable[[int], None]


class FileFailed(tornado.iostream.StreamClosedError):
    """The connection was closed because the file is not what its headers said: too short, or not to be read."""


async def send_file(
    handler: tornado.web.RequestHandler, descriptor: int, offset: int, length: int, count: Count
) -> None:
    """Send bytes of an open file as the body; headers, Content-Length included, must be set.

    Args:
        handler: Has written nothing yet.
        descriptor: The open file.
        offset: Where to begin.
        length: How many bytes; exactly these are sent or the connection is closed.
        count: Called with the number of bytes each time some were handed to the system.

    Raises:
        FileFailed: The file cannot be read to the end of the stretch.
        tornado.iostream.StreamClosedError: The reader went away, or took nothing for a minute.
    """
    await handler.flush()
    if not length:
        return
    inside = None if portable() else _TornadoSocket.of(handler)
    if inside is not None:
        await _sendfile(inside, descriptor, offset, length, count)
    else:
        await _copy(handler, descriptor, offset, length, count)


async def _copy(
    handler: tornado.web.RequestHandler, descriptor: int, offset: int, length: int, count: Count
) -> None:
    end = offset + length
    loop = asyncio.get_running_loop()
    while offset < end:
        try:
            data = await loop.run_in_executor(None, _read, descriptor, min(BLOCK, end - offset), offset)
        except OSError as exc:
            raise FileFailed(_cut(handler, str(exc)).real_error) from exc
        if not data:
            raise FileFailed(_cut(handler, "the file is shorter than its record").real_error)
        handler.write(data)
        try:
            await asyncio.wait_for(handler.flush(), SLOW_S)
        except TimeoutError:
            raise _cut(handler, "the reader is too slow") from None
        offset += len(data)
        count(len(data))


def _read(descriptor: int, size: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, size)


def _cut(handler: tornado.web.RequestHandler, reason: str) -> tornado.iostream.StreamClosedError:
    stream = handler.detach()
    stream.close()
    return tornado.iostream.StreamClosedError(OSError(reason))


class _TornadoSocket:
    """The socket below a handler, and Tornado's count of body bytes still to come (private; Tornado 6.6)."""

    def __init__(self, connection: Any, stream: tornado.iostream.IOStream, sock: socket.socket) -> None:
        self._connection = connection
        self.stream = stream
        self.socket = sock

    @classmethod
    def of(cls, handler: tornado.web.RequestHandler) -> "_TornadoSocket | None":
        connection = handler.request.connection
        stream = getattr(connection, "stream", None)
        if (
            not hasattr(os, "sendfile")
            or type(stream) is not tornado.iostream.IOStream
            or not isinstance(stream.socket, socket.socket)
            or stream.writing()
            or getattr(connection, "_expected_content_remaining", None) is None
            or getattr(connection, "_chunking_output", True)
        ):
            return None
        return cls(connection, stream, stream.socket)

    def sent(self, count: int) -> None:
        """Tell Tornado that body bytes have left."""
        self._connection._expected_content_remaining -= count


async def _sendfile(inside: _TornadoSocket, descriptor: int, offset: int, length: int, count: Count) -> None:
    end = offset + length
    turn = 0
    warm = offset
    while offset < end:
        if offset >= warm:
            warm = min(offset + _SEND, end)
            if not in_memory(descriptor, offset, warm - offset):
                await asyncio.get_running_loop().run_in_executor(
                    None, read_ahead, descriptor, offset, warm - offset
                )
        try:
            sent = os.sendfile(inside.socket.fileno(), descriptor, offset, warm - offset)
        except BlockingIOError:
            await _writable(inside)
            turn = 0
            continue
        except OSError as exc:
            inside.stream.close()
            raise (FileFailed if unreadable(exc) else tornado.iostream.StreamClosedError)(exc) from exc
        if not sent:
            inside.stream.close()
            raise FileFailed(OSError("the file is shorter than its record"))
        offset += sent
        turn += sent
        inside.sent(sent)
        count(sent)
        if turn >= _TURN:
            turn = 0
            await asyncio.sleep(0)


async def _writable(inside: _TornadoSocket) -> None:
    """Wait until the socket takes bytes again; on a copy of its descriptor, since Tornado watches the original."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    copy = os.dup(inside.socket.fileno())
    began = time.monotonic()
    loop.add_writer(copy, _resolve, ready)
    try:
        await asyncio.wait_for(ready, SLOW_S)
    except TimeoutError:
        inside.stream.close()
        waited = time.monotonic() - began
        raise tornado.iostream.StreamClosedError(
            OSError(f"the reader took nothing for {waited:.0f} s")
        ) from None
    finally:
        loop.remove_writer(copy)
        os.close(copy)
    if inside.stream.closed():
        raise tornado.iostream.StreamClosedError()


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
