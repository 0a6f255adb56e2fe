"""Who writes to which upload: one at a time, and whoever comes later ends the one before."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from appliance.domain.errors import Conflict

from .receiving import Receiver
from .upload import Upload

IDLE = 32
TAKE_OVER_S = 30.0  #: how long who takes over waits for the other to end

Interrupt = Callable[[], None]


@dataclass(slots=True)
class Writer:
    """One that writes to an upload."""

    interrupt: Interrupt | None  #: ends it soon; None while it must not be ended
    upload: Upload | None = None
    receiver: Receiver | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def left(self) -> int:
        """Bytes that it may still write."""
        if self.upload is None or self.upload.size is None:
            return 0
        return max(0, self.upload.size - (self.receiver.offset if self.receiver else self.upload.offset))


class Writers:
    """The writers of all uploads, and the receivers that wait for the next one. For the event loop only."""

    def __init__(self) -> None:
        self._active: dict[str, Writer] = {}
        self._idle: dict[str, Receiver] = {}

    def __contains__(self, id: str) -> bool:
        return id in self._active

    def get(self, id: str) -> Writer | None:
        """Who writes to an upload."""
        return self._active.get(id)

    def left(self, but: str) -> int:
        """Bytes that all writers, `but` one upload's, may still write."""
        return sum(writer.left() for id, writer in self._active.items() if id != but)

    async def end(self, id: str) -> None:
        """End whoever writes to an upload.

        Raises:
            Conflict: It cannot be ended, or does not end in time.
        """
        while (writer := self._active.get(id)) is not None:
            if writer.interrupt is not None:
                writer.interrupt()
            try:
                await asyncio.wait_for(writer.ended.wait(), TAKE_OVER_S)
            except TimeoutError:
                raise Conflict("Another request is completing this upload; ask again in a while.") from None

    @contextlib.contextmanager
    def writing(self, id: str, interrupt: Interrupt | None) -> Iterator[Writer]:
        """Be the writer; nobody else must be: await `end` just before."""
        writer = self._active[id] = Writer(interrupt)
        try:
            yield writer
        finally:
            del self._active[id]
            writer.ended.set()

    def idle(self, id: str) -> Receiver | None:
        """The receiver that waits for the upload's next bytes, if its hashes are still known."""
        return self._idle.get(id)

    def take(self, id: str) -> Receiver | None:
        """As `idle`, and it waits no longer."""
        return self._idle.pop(id, None)

    def keep(self, id: str, receiver: Receiver) -> None:
        """Let a receiver wait. Of too many the oldest is closed; its hashes are made anew if it is needed."""
        self._idle[id] = receiver
        while len(self._idle) > IDLE:
            self._idle.pop(next(iter(self._idle))).close()

    def close(self) -> None:
        """Let go of all files."""
        for receiver in self._idle.values():
            receiver.close()
        self._idle.clear()
