"""How slowly a peer may send: one that trickles holds a thread as surely as one that is silent."""

import time
from dataclasses import dataclass

from appliance.domain.errors import PeerUnreachable


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a call to a peer may take."""

    connect_s: float = 5.0  #: for the connection, and again for the TLS handshake
    silence_s: float = 30.0  #: a connection that says nothing for so long is dead
    head_s: float = 60.0  #: for status and headers, all of them
    window_s: float = 60.0  #: in every such stretch of time a body keeps the minimum rate
    min_rate: int = 4096  #: bytes a second


USUAL = Limits()


class Pace:
    """Watches that a body arrives at the minimum rate in every window, not only on average since it began."""

    def __init__(self, url: str, limits: Limits) -> None:
        self._url = url
        self._window_s = limits.window_s
        self._min_rate = limits.min_rate
        self._began = time.monotonic()
        self._count = 0

    def received(self, count: int) -> None:
        """So many bytes arrived.

        Raises:
            PeerUnreachable: They are too few for the time.
        """
        self._count += count
        taken = time.monotonic() - self._began
        if taken > self._window_s:
            if self._count < self._min_rate * taken:
                raise PeerUnreachable(f"{self._url} sends less than {self._min_rate} bytes a second.")
            self._began += taken
            self._count = 0

    def excuse(self, seconds: float) -> None:
        """We were busy for so long: that is not the peer's fault."""
        self._began += seconds
