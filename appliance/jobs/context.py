"""What a running job sees of its surroundings."""

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from appliance.domain.errors import LeaseLost, Stopping
from appliance.domain.job import Job

T = TypeVar("T")


class JobContext:
    """Handed to the function of a job; every method may be called from any thread."""

    def __init__(self, job: Job, loop: asyncio.AbstractEventLoop) -> None:
        self.job = job
        self.stopping = threading.Event()  #: the node stops, the lease is lost or the job was cancelled
        self._loop = loop
        self._lost = ""

    @property
    def lost(self) -> str:
        """Why this run no longer counts, or "" while it does."""
        return self._lost

    def check(self) -> None:
        """Return while the job should go on; call it between two steps that each take less than a second.

        Raises:
            Stopping: The node stops; the job runs again after the next start, with this attempt given back.
            LeaseLost: Another worker holds the job, or a person cancelled it.
        """
        if self.stopping.is_set():
            if self._lost:
                raise LeaseLost(self._lost)
            raise Stopping()

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the event loop and return its result to this thread.

        Raises:
            Stopping: The event loop ended first.
            RuntimeError: It was called on the event loop itself, where it would wait for ever.
        """
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        if running is not None:
            coroutine.close()
            raise RuntimeError("JobContext.wait is for threads; a coroutine awaits")
        if self._loop.is_closed():
            coroutine.close()
            raise Stopping()
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
        except concurrent.futures.CancelledError as exc:
            raise Stopping() from exc

    def stop(self, *, lost: str = "") -> None:
        """Ask the function to end. `lost` says why its result no longer counts, if it does not."""
        self._lost = self._lost or lost
        self.stopping.set()
