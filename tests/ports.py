"""Ports of the loopback address for servers that tests start, and start again on the same port.

A port that the kernel chooses may be given to any connection between the moment a test asks for it and the moment
its server listens. So these come from below the range that the kernel gives to connections, and each process that
runs tests has a block of its own.
"""

import functools
import itertools
import os
import socket
from collections.abc import Iterator

HOST = "127.0.0.1"
FIRST, LAST = 20_000, 32_000
BLOCK = 100


def free_port() -> int:
    """A port that is free now, and that nobody else takes before its turn comes round again."""
    for port in itertools.islice(_ports(), BLOCK):
        if (probe := _take(port)) is not None:
            probe.close()
            return port
    raise RuntimeError("all ports of this process are in use")


@functools.cache
def _ports() -> Iterator[int]:
    """The ports of this process, round and round. Who listens on the first port of a block has the block."""
    blocks = range(FIRST, LAST, BLOCK)
    for start in (blocks[(os.getpid() + turn) % len(blocks)] for turn in range(len(blocks))):
        if (held := _take(start)) is not None:
            _HELD.append(held)
            return itertools.cycle(range(start + 1, start + BLOCK))
    raise RuntimeError("there is no block of free ports")


_HELD: list[socket.socket] = []  #: open as long as the process lives


def _take(port: int) -> socket.socket | None:
    try:
        return socket.create_server((HOST, port))
    except OSError:
        return None
