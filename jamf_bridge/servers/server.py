"""One configured MDM server as the parts of the bridge see it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from .config import ServerConfig


class ServerState(StrEnum):
    """How a server is doing."""

    CONNECTED = "connected"  #: the last call went well, or none was made yet
    UNREACHABLE = "unreachable"  #: tried again by itself
    ATTENTION = "attention"  #: a person has to mend something; nothing is sent until then
    PAUSED = "paused"  #: it said that it goes down, or a person paused it; polled again later
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A configured MDM server. `health` is a copy: it changes through `Servers.note` and its like alone."""

    id: str
    config: ServerConfig  #: secrets are in clear in here; `Servers.shown` is what may leave the process
    state: ServerState = ServerState.CONNECTED
    reason: str = ""  #: why it is in this state, with what to do
    hook_secret: str = ""
    health: Mapping[str, Any] = field(default_factory=dict)  #: last_poll_at, last_hook_at, hooks_refused, ...
    rev: int = 0

    @property
    def usable(self) -> bool:
        """Whether it may be called now: also if all it needs attention for is one ability of several."""
        if self.state is ServerState.ATTENTION:
            return self.config.enabled and bool(self.health.get("partial"))
        return self.config.enabled and self.state in {ServerState.CONNECTED, ServerState.UNREACHABLE}
