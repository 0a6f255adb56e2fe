"""Tells an open page that something changed; the page then fetches its parts anew.

Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html): one line a change, with the
topic, which is a collection of the store. Each has a mark as its id, so that a stream that was cut off, or begins after
its page was made, tells what changed since.
"""

import asyncio
import contextlib

from tornado.iostream import StreamClosedError

from appliance.api.base import BaseHandler
from appliance.api.cookies import read_session
from appliance.domain.errors import ApplianceError, InvalidInput, NotAuthenticated

from .marks import TOPICS, changed, mark
from .pages import PageHandler

LOOK_S = 1.0
BEAT_S = 15.0  #: a proxy that hears nothing closes the connection
LIFE_S = 600.0  #: the browser connects anew, and the session is checked again


class LiveHandler(PageHandler):
    """`/ui/live?topics=packages,transfers&since=MARK`."""

    background = True
    answers_head = False

    async def prepare(self) -> None:
        """Tell a page whose session has ended, in the one form that it can read."""
        try:
            await BaseHandler.prepare(self)
            ended = self.session is not None and self.session.must_change
        except NotAuthenticated:
            if self.request.method not in {"GET", "HEAD"}:
                raise
            ended = True
        if ended:
            self.set_header("Content-Type", "text/event-stream; charset=utf-8")
            self.finish("event: ended\ndata: sign in\n\n")

    async def get(self) -> None:
        """Write a line for each change, until the client leaves or the node stops."""
        topics = [topic for topic in self.get_query_argument("topics", "").split(",") if topic]
        unknown = [topic for topic in topics if topic not in TOPICS]
        if unknown or not topics:
            raise InvalidInput(f"Name topics out of: {', '.join(TOPICS)}.")
        self.set_header("Content-Type", "text/event-stream; charset=utf-8")
        self.set_header("X-Accel-Buffering", "no")
        since = self.request.headers.get("Last-Event-ID") or self.get_query_argument("since", "")
        with contextlib.suppress(
            StreamClosedError, ApplianceError
        ):  # gone, or the database is: it connects anew
            await self._say("retry: 2000\n\n")
            await self._follow(topics, since or await mark(self.app))

    async def _follow(self, topics: list[str], seen: str) -> None:
        loop = asyncio.get_running_loop()
        began = spoke = checked = loop.time()
        while loop.time() - began < LIFE_S and not self.app.system.draining:
            if "progress" in topics:
                self.app.neighbourhood.look()
            now = await mark(self.app)
            found = changed(topics, seen, now)
            seen = now
            if found:
                await self._say("".join(f"id: {now}\nevent: changed\ndata: {topic}\n\n" for topic in found))
                spoke = loop.time()
            elif loop.time() - spoke > BEAT_S:
                await self._say(": still here\n\n")
                spoke = loop.time()
            if self.session is not None and loop.time() - checked > BEAT_S:
                await self.app.sessions.check(read_session(self), active=False)
                checked = loop.time()
            await asyncio.sleep(LOOK_S)

    async def _say(self, text: str) -> None:
        self.write(text)
        await self.flush()
