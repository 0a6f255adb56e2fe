"""Ends a connection that takes too long as a whole, however lively it is in between."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def cut_after(seconds: float, find: Callable[[], socket.socket | None]) -> Iterator[threading.Event]:
    """Shut a socket down when time is up, while the thread that uses it is in the block.

    Args:
        seconds: How long it may take.
        find: Answers the socket, or None while there is none.

    Yields:
        An event that is set when this happened.
    """
    rang = threading.Event()

    def ring() -> None:
        rang.set()
        sock = find()
        if sock is not None:
            with contextlib.suppress(OSError):
                # Not SSLSocket.shutdown: that would take TLS away from under the thread that reads.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, ring)
    timer.daemon = True
    timer.start()
    try:
        yield rang
    finally:
        timer.cancel()
