"""The servers of the directory: asked in order, one that failed last, each question within bounds."""

import asyncio
import functools
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from appliance.domain.errors import DirectoryUnavailable
from config.directory import Directory as Options

from .conversation import Conversation, ServerFailed, Trust

log = logging.getLogger(__name__)

AT_ONCE = 4  #: questions that are asked at a time
WAITING = 32  #: and that may wait for their turn
AVOIDED_MS = 30_000  #: a server that failed is asked last for so long

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How a server did when it was last asked."""

    url: str
    healthy: bool | None  #: None: it was not asked yet
    error: str = ""
    at: int = 0  #: UTC milliseconds


class Call:
    """What one question opened, so that another thread can end it."""

    def __init__(self, options: Options, trust: Trust) -> None:
        self._options = options
        self._trust = trust
        self._open: list[Conversation] = []
        self._lock = threading.Lock()
        self._aborted = False

    def open(self, url: str) -> tuple[Conversation, str]:
        """Connect to a server; return the conversation and the protocol, such as "TLSv1.3".

        Raises:
            ServerFailed: It does not answer, is not who it should be, or time is up.
        """
        options = self._options
        made = Conversation(
            url, self._trust, connect_s=options.connect_timeout_s, receive_s=options.receive_timeout_s
        )
        with self._lock:
            if self._aborted:
                raise ServerFailed("it took too long", step="connect")
            self._open.append(made)
        return made, made.open()

    def sign_in(self, conversation: Conversation) -> None:
        """Bind as the account that searches.

        Raises:
            ServerFailed: The server refuses it.
        """
        refusal = conversation.bind(self._options.bind_dn, self._options.bind_password)
        if refusal:
            raise ServerFailed(f"it refuses bind_dn: {refusal}", step="bind")

    @property
    def aborted(self) -> bool:
        """Whether time is up."""
        return self._aborted

    def abort(self) -> None:
        """Time is up: end whatever is open."""
        with self._lock:
            self._aborted = True
            for conversation in self._open:
                conversation.abort()

    def close(self) -> None:
        """Let go of what is open."""
        with self._lock:
            for conversation in self._open:
                conversation.close()
            self._open.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A server that answers, with the searching account signed in."""

    call: Call
    url: str
    conversation: Conversation


class Servers:
    """All servers of the settings."""

    def __init__(self, options: Options, now: Callable[[], int]) -> None:
        """Read the authorities; nothing is asked yet.

        Raises:
            InvalidSettings: `ca_file` cannot be read.
        """
        self._options = options
        self._now = now
        self._trust = Trust(options.ca_file)
        self._health = {url: Health(url=url, healthy=None) for url in options.servers}
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0
        self._threads = ThreadPoolExecutor(2 * AT_ONCE, thread_name_prefix="directory")

    @property
    def patience_s(self) -> float:
        """Seconds after which a question is given up, whatever the servers do."""
        connect, receive = self._options.connect_timeout_s, self._options.receive_timeout_s
        return len(self._options.servers) * (connect + receive) + receive

    def health(self) -> list[Health]:
        """How each server did when it was last asked, in the order of the settings."""
        return list(self._health.values())

    def note(self, url: str, error: str = "") -> None:
        """A server was asked: it answered, or failed in this way."""
        before = self._health[url]
        self._health[url] = Health(url=url, healthy=not error, error=error, at=self._now())
        if error and error != before.error:
            log.warning(
                "a server of the directory failed",
                extra={"action": "directory_failed", "server": url, "reason": error},
            )
        elif not error and before.healthy is False:
            log.info(
                "a server of the directory answers again",
                extra={"action": "directory_answers", "server": url},
            )

    def _order(self) -> list[str]:
        """In the order of the settings, but those that failed lately last."""
        lately = self._now() - AVOIDED_MS
        return sorted(
            self._options.servers,
            key=lambda url: self._health[url].healthy is False and self._health[url].at > lately,
        )

    async def ask(self, question: Callable[[Link], T]) -> T:
        """Put a question to the first server that answers; it runs in a thread, perhaps more than once.

        Raises:
            DirectoryUnavailable: None answers in time, or too many questions wait.
        """
        return await self.run(lambda call: self._first_answer(question, call))

    async def run(self, work: Callable[[Call], T]) -> T:
        """Do something with servers in a thread, within bounds of time and number.

        Raises:
            DirectoryUnavailable: Time is up, or too much waits already.
        """
        if self._waiting >= AT_ONCE + WAITING:
            raise DirectoryUnavailable("Too many sign-ins wait for the directory; try again.")
        self._waiting += 1
        try:
            async with self._turns:
                call = Call(self._options, self._trust)
                future = self._threads.submit(functools.partial(_closing, work, call))
                try:
                    return await asyncio.wait_for(asyncio.wrap_future(future), self.patience_s)
                except TimeoutError as exc:
                    raise DirectoryUnavailable() from exc
                finally:
                    _ended(call, future)
        finally:
            self._waiting -= 1

    def _first_answer(self, question: Callable[[Link], T], call: Call) -> T:
        for url in self._order():
            if call.aborted:
                break
            try:
                conversation, _ = call.open(url)
                call.sign_in(conversation)
                answer = question(Link(call=call, url=url, conversation=conversation))
            except ServerFailed as exc:
                self.note(url, f"{exc.step}: {exc.message}")
            else:
                self.note(url)
                return answer
            finally:
                call.close()
        raise DirectoryUnavailable()

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _closing(work: Callable[[Call], T], call: Call) -> T:
    try:
        return work(call)
    finally:
        call.close()


def _ended(call: Call, future: "Future[T]") -> None:
    if not future.done():
        call.abort()
