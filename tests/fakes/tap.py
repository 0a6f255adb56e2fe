"""A tap on the wire: passes bytes on and keeps what the client sent, or answers by itself."""

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

Answer = Callable[[bytes], bytes]


class Tap:
    """Listens on a port of its own.

    Args:
        port: Where to pass everything on to; 0 to answer by itself.
        answer: Without a port: what to answer to each piece that came.
    """

    def __init__(self, port: int = 0, answer: Answer = lambda _piece: b"") -> None:
        self._to = port
        self._answer = answer
        self.heard = b""  #: what clients sent
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._sockets: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._go(self._accept)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for found in self._sockets:
            with contextlib.suppress(OSError):
                found.shutdown(socket.SHUT_RDWR)
            found.close()
        for thread in self._threads:
            thread.join(10)

    def _go(self, function: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(client)
            if not self._to:
                self._go(self._talk, client)
                continue
            server = socket.create_connection(("127.0.0.1", self._to))
            self._sockets.append(server)
            self._go(self._pass, client, server, True)
            self._go(self._pass, server, client, False)

    def _talk(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := client.recv(65536):
                self.heard += piece
                answer = self._answer(piece)
                if answer:
                    client.sendall(answer)

    def _pass(self, source: socket.socket, target: socket.socket, keep: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                if keep:
                    self.heard += piece
                target.sendall(piece)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
