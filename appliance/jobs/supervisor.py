"""Background tasks of a process: one that fails is restarted, counted, logged once a kind of failure, and shown.

A loop that follows something is started with `start` and runs again after a pause that grows. A step that comes again
by itself, a timer's or one of many, is done with `once`: its failure ends neither the others nor the one who does it.
"""

import asyncio
import contextlib
import logging
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from appliance.domain.errors import ApplianceError

from .run import describe

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
STEADY_MS = 60_000  #: a task that ran for so long since its last failure works again
FORGET_MS = 3_600_000  #: a step that was not tried again for so long is not shown
WHAT_HAPPENED = "failed and is retried"  #: of a task or a step of one, for people
PERSISTENT = 3  #: failures in a row, after which a task "keeps failing"
_KINDS = 500  #: kinds of failure that are remembered as logged
_SHOWN = 100  #: failing tasks that are remembered


@dataclass(slots=True, kw_only=True)
class Failing:
    """A task that does not do its work now."""

    task: str
    since: int  #: UTC milliseconds
    last: int  #: UTC milliseconds of the last failure
    failures: int  #: in a row
    error: str
    step: bool  #: whether it is tried again by whoever does it

    @property
    def persistent(self) -> bool:
        """Whether it keeps failing."""
        return self.failures >= PERSISTENT


class Supervisor:
    """Starts and watches the background tasks of one process."""

    def __init__(
        self,
        *,
        now: Callable[[], int],
        count: Callable[[str], None] = lambda _: None,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        """Make one.

        Args:
            now: UTC milliseconds.
            count: Counts the failures of a task, by its name.
            first_pause_s: Seconds before a task that failed once is restarted.
        """
        self._now = now
        self._count = count
        self._first_pause_s = first_pause_s
        self._failing: dict[tuple[str, str], Failing] = {}
        self._logged: set[tuple[str, ...]] = set()
        self.on_new_kind: Callable[[Failing], Awaitable[None]] | None = (
            None  #: called for each new kind of failure
        )

    def start(
        self,
        task: str,
        function: Callable[[], Awaitable[None]],
        *,
        closing: asyncio.Event | None = None,
    ) -> "asyncio.Task[None]":
        """Run `function()` until it returns, again and again while it fails.

        Args:
            task: Its name, for people and for the metric.
            function: Runs until it is cancelled, or returns when its work is over.
            closing: Set when it shall not be restarted any more.

        Returns:
            The task; cancel it to end it.
        """
        return asyncio.create_task(self._run(task, function, closing), name=task)

    async def once(
        self,
        task: str,
        function: Callable[[], Awaitable[object]],
        *,
        step: str = "",
        passing: tuple[type[Exception], ...] = (),
    ) -> bool:
        """Await `function()`, whatever it raises; say whether it returned.

        Args:
            task: What kind of step it is.
            function: The step.
            step: Which of several of its kind.
            passing: What whoever does it has to know of, and is raised.
        """
        try:
            await function()
        except passing:
            raise
        except (Exception, asyncio.CancelledError) as exc:  # the net of background tasks
            if _is_ours(exc):
                raise
            await self._failed(task, step, exc, repeats=False)
            return False
        self._failing.pop((task, step), None)
        return True

    def failing(self) -> list[Failing]:
        """The tasks that do not do their work now, by name."""
        now = self._now()
        for key, found in list(self._failing.items()):
            if now - found.last > (FORGET_MS if found.step else STEADY_MS + 1000 * LONGEST_PAUSE_S):
                del self._failing[key]
        return sorted(self._failing.values(), key=lambda found: found.task)

    async def _run(
        self, task: str, function: Callable[[], Awaitable[None]], closing: asyncio.Event | None
    ) -> None:
        pause_s = self._first_pause_s
        while closing is None or not closing.is_set():
            began = self._now()
            try:
                await function()
            except (Exception, asyncio.CancelledError) as exc:  # the net of background tasks
                if _is_ours(exc):
                    raise
                if self._now() - began > STEADY_MS:
                    pause_s = self._first_pause_s
                    self._failing.pop((task, ""), None)
                await self._failed(task, "", exc, repeats=True)
            else:
                return
            if closing is None:
                await asyncio.sleep(pause_s)
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(closing.wait(), pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _failed(self, task: str, step: str, error: BaseException, *, repeats: bool) -> None:
        self._count(task)
        now, text = self._now(), describe(error)
        found = self._failing.get((task, step))
        if found is None:
            found = Failing(task=task, since=now, last=now, failures=0, error=text, step=not repeats)
            if len(self._failing) < _SHOWN:
                self._failing[task, step] = found
        found.failures, found.last, found.error = found.failures + 1, now, text
        kind = (task, type(error).__name__, _place(error))
        known = isinstance(error, ApplianceError)
        if kind in self._logged or len(self._logged) >= _KINDS:
            log.debug("a background task failed again", extra={"action": "task_failed", "task": task})
            return
        self._logged.add(kind)
        log.error(
            f"a background task {WHAT_HAPPENED}; the same failure is not logged again",
            extra={"action": "task_failed", "task": task, "step": step, "error": text},
            exc_info=None if known else error,  # an unknown error is a bug
        )
        if self.on_new_kind is not None:
            with contextlib.suppress(Exception):  # the database may be what fails
                await self.on_new_kind(found)


def _is_ours(error: BaseException) -> bool:
    """Whether somebody ends this very task; a task may also come upon the cancellation of something it waits for."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling() > 0)


def _place(error: BaseException) -> str:
    """Where an error was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
