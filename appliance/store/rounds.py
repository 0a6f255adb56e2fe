"""Blocking calls in threads, those of one round of the event loop together.

Handing a call to a thread and its answer back costs several times a query or a look at a file. So the calls that one
round of the loop asks for go to a thread together, and many of them to a few threads.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

_FEW = 8  #: so many calls go to one thread

_Call = tuple[Callable[[], Any], asyncio.Future[Any]]


class Rounds:
    """Runs calls in the threads of an executor. Belongs to one event loop."""

    def __init__(self, executor: Executor, threads: int) -> None:
        """Make one.

        Args:
            executor: Whose threads are used; its owner ends it.
            threads: At most so many are used for the calls of one round.
        """
        self._executor = executor
        self._most = threads
        self._waiting: list[_Call] = []

    async def run(self, call: Callable[[], T]) -> T:
        """Run a call, after the ones that this round asked for before, or beside them; what it raises is raised."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._dispatch, loop)
        self._waiting.append((call, future))
        return await future

    def _dispatch(self, loop: asyncio.AbstractEventLoop) -> None:
        group, self._waiting = self._waiting, []
        share = -(-len(group) // self._most) if len(group) > _FEW else len(group)
        for start in range(0, len(group), share):
            self._executor.submit(self._run, group[start : start + share], loop)

    def _run(self, group: list[_Call], loop: asyncio.AbstractEventLoop) -> None:
        answers: list[tuple[asyncio.Future[Any], Any, Exception | None]] = []
        for call, future in group:
            try:
                answers.append((future, call(), None))
            except Exception as exc:  # not caught: it is raised where the call was asked for
                answers.append((future, None, exc))
        with suppress(RuntimeError):  # a loop that is closed has nobody left to tell
            loop.call_soon_threadsafe(_answer, answers)


def _answer(answers: list[tuple[asyncio.Future[Any], Any, Exception | None]]) -> None:
    for future, result, error in answers:
        if future.done():  # its caller was cancelled
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
