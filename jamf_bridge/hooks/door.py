"""The door for webhooks of MDM servers: who sent it, what it means, and the job that follows from it.

A delivery is answered when its job is in the store, and that is within a second whatever comes: hints are coalesced
before the store, duplicates and the echo of our own calls are absorbed in memory, and nothing here calls the MDM.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping

from appliance.domain.errors import ApplianceError
from appliance.domain.event import EventType
from appliance.domain.mdm_errors import HookInvalid, MdmNeedsAttention
from appliance.service.journal import SYSTEM, entry
from appliance.store.ports import Store

from ..driver import Hook
from ..jobs import hint_job
from ..servers.config import Action
from ..servers.documents import PAUSE_MS
from ..servers.server import Server, ServerState
from ..servers.servers import Servers
from .counts import HookCounts
from .gate import HintGate
from .rules import action_of

log = logging.getLogger(__name__)

TOKEN_HEADER = "X-ODS-Hook-Token"  # noqa: S105 - the name of a header
USER = "ods"  #: for HTTP Basic
MAX_BODY = 1024 * 1024  #: bytes
PAUSE_AGAIN_MS = 60_000  #: a pause that is younger is not written again
GATHER_MS = 60_000  #: a flood that does not end is synced after this
HINTS_APART_MS = 15_000  #: syncs that webhooks ask for begin at least so far apart
SEEN = 4096  #: deliveries that are remembered, to know their duplicates
KNOWN_MS = 1000  #: a change by another process is seen after this
REFUSED_EVERY_MS = 60_000  #: at most one event in this time says that deliveries are refused

ACCEPTED, INVALID, REFUSED, UNKNOWN, TOO_LARGE, NO_DRIVER = 202, 400, 401, 404, 413, 502


class HookDoor:
    """Takes webhooks."""

    def __init__(self, *, store: Store, servers: Servers, now: Callable[[], int]) -> None:
        """Make it.

        Args:
            store: Where jobs and events are.
            servers: The configured servers.
            now: UTC milliseconds.
        """
        self._store = store
        self._servers = servers
        self._now = now
        self._counts = HookCounts(servers)
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._gates: dict[tuple[str, Action], HintGate] = {}
        self._known: dict[str, Server] = {}
        self._known_at = (0, -1)  #: when it was read, and the servers' generation then
        self._reading = asyncio.Lock()
        self._refusal_told: dict[str, int] = {}
        self._last_hint: dict[str, int] = {}  #: by server
        self._gathering: set[str] = set()  #: servers whose hint has become due and waits for the last one
        self._hinted: dict[str, int] = {}  #: by server: when its last hint becomes, or became, a sync

    async def accept(
        self,
        server_id: str,
        *,
        path_secret: str,
        headers: Mapping[str, str],
        content_type: str,
        body: bytes,
        address: str,
    ) -> int:
        """Take one delivery; return the HTTP status that answers it.

        Args:
            server_id: From the path.
            path_secret: The path's last part, if it has one more.
            headers: The request's, names in any case.
            content_type: Of the body.
            body: The whole body.
            address: Who sent it, for the log.
        """
        status = await self.admit(server_id, path_secret=path_secret, headers=headers, address=address)
        return (
            status if status != ACCEPTED else await self.take(server_id, content_type=content_type, body=body)
        )

    async def admit(
        self, server_id: str, *, path_secret: str, headers: Mapping[str, str], address: str
    ) -> int:
        """Whether a delivery may come in, before its body is read: 202, 401 or 404."""
        server = await self._server(server_id)
        if server is None:
            return UNKNOWN
        if server.hook_secret and _proven(server.hook_secret, path_secret, headers):
            return ACCEPTED
        now = self._now()
        self._counts.add(server_id, "hooks_refused", last_refused_at=now)
        if now - self._refusal_told.get(server_id, -REFUSED_EVERY_MS) >= REFUSED_EVERY_MS:
            self._refusal_told[server_id] = now
            log.warning(
                "a webhook was refused: its secret is missing or wrong",
                extra={"action": "mdm_hook_refused", "mdm": server_id, "remote": address},
            )
            facts = {"name": server.config.name, "address": address}
            await self._store.batch(
                [entry(EventType.MDM_HOOK_REFUSED, at=now, actor=SYSTEM, subject=server_id, **facts)]
            )
        return REFUSED

    async def take(self, server_id: str, *, content_type: str, body: bytes) -> int:
        """Do what an admitted delivery asks for: 202, 400, 404, 413 or 502.

        Raises:
            StoreUnavailable: The job could not be queued; the MDM may send it again.
        """
        server = await self._server(server_id)
        if server is None:
            return UNKNOWN
        if len(body) > MAX_BODY:
            return TOO_LARGE
        try:
            hook = self._servers.driver_of(server).parse_webhook(content_type, body)
        except HookInvalid:
            self._counts.add(server_id, "hooks_invalid")
            return INVALID
        except MdmNeedsAttention:
            return NO_DRIVER
        self._counts.add(
            server_id, "hooks_received", last_hook_at=self._now(), last_hook_event=hook.event[:100]
        )
        absorbed = self._absorbed(server, hook)
        if absorbed:
            self._counts.add(server_id, absorbed)
            return ACCEPTED
        action = action_of(server.config.kind, server.config.webhooks.rules, hook)
        await self._do(server, action, hook)
        self._remember(server_id, hook)  # only now: a delivery that failed may be sent again
        return ACCEPTED

    def _absorbed(self, server: Server, hook: Hook) -> str:
        """The counter of the reason why nothing follows from a delivery, or ""."""
        if not server.config.webhooks.enabled or server.state is ServerState.DISABLED:
            return "hooks_ignored"
        if (server.id, hook.id) in self._seen:
            return "hooks_duplicate"
        own = str(server.health.get("own_account", "")).casefold()
        if hook.operation == "read" or (own and hook.actor.casefold() == own):
            return "hooks_own"
        return "" if hook.successful else "hooks_ignored"

    def _remember(self, server_id: str, hook: Hook) -> None:
        self._seen[server_id, hook.id] = None
        while len(self._seen) > SEEN:
            self._seen.popitem(last=False)

    async def _do(self, server: Server, action: Action, hook: Hook) -> None:
        if action == "ignore":
            self._counts.add(server.id, "hooks_ignored")
            return
        paused_until = server.health.get("paused_until", 0)
        if action == "pause":
            if paused_until > self._now() + PAUSE_MS - PAUSE_AGAIN_MS:
                return
            reason = f"{server.config.name} said that it goes down ({hook.event})."
            await self._servers.pause(server.id, self._now() + PAUSE_MS, reason)
            return
        if action == "probe" and paused_until > self._now():
            await self._servers.resume(server.id)
        elif server.state is ServerState.PAUSED:
            self._counts.add(server.id, "hooks_ignored")  # the sync at the end of the pause sees it all
            return
        self._last_hint[server.id] = self._now()
        if server.id in self._gathering and action not in {"probe", "verify"}:
            return  # the job that becomes a sync is still waiting for the last hint
        gate = self._gates.get((server.id, action))
        if gate is None:
            gate = self._gates[server.id, action] = HintGate(
                lambda: self._queue(server.id, action), self._now
            )
        await gate.pass_on()

    async def _queue(self, server_id: str, action: Action) -> int:
        """Queue a sync after the debounce time; answer until when it is certain to wait."""
        server = await self._server(server_id)
        if server is None:
            return 0
        if action in {"probe", "verify"}:
            await self._servers.ask(server_id, action)
        now = self._now()
        quiet_at = now + round(server.config.webhooks.debounce_s * 1000)
        after_the_last = self._hinted.get(server_id, -HINTS_APART_MS) + HINTS_APART_MS
        run_at = max(
            quiet_at, min(after_the_last, quiet_at + HINTS_APART_MS)
        )  # the clock may have been ahead
        if not await self._store.enqueue(
            hint_job(server_id, now, run_at=run_at, reason=f"webhook: {action}")
        ):
            return 0
        self._hinted[server_id] = run_at
        return run_at

    async def gather(self, server_id: str) -> None:
        """Return when no hint of a server came for its debounce time, or after a minute: for the job that syncs then.

        Hints that come meanwhile are part of it. In a process that takes no webhooks it returns at once.
        """
        server = await self._server(server_id)
        if server is None:
            return
        debounce_ms = round(server.config.webhooks.debounce_s * 1000)
        began = self._now()
        self._gathering.add(server_id)
        try:
            left_ms = self._until_quiet(server_id, debounce_ms, began)
            while left_ms > 0:
                await asyncio.sleep(min(500, left_ms) / 1000)
                left_ms = self._until_quiet(server_id, debounce_ms, began)
        finally:
            self._gathering.discard(server_id)

    def _until_quiet(self, server_id: str, debounce_ms: int, began: int) -> int:
        quiet_at = self._last_hint.get(server_id, 0) + debounce_ms
        now = self._now()
        return min(quiet_at, began + GATHER_MS) - now if now >= began else 0

    async def _server(self, server_id: str) -> Server | None:
        """A server as it was within the last second; all are read together, so unknown ids cost nothing."""
        async with self._reading:
            now, generation = self._now(), self._servers.generation
            read_at, read_generation = self._known_at
            if generation != read_generation or not 0 <= now - read_at < KNOWN_MS:
                self._known = {server.id: server for server in await self._servers.all()}
                self._known_at = (now, generation)
                for key in [key for key in self._gates if key[0] not in self._known]:
                    del self._gates[key]
            return self._known.get(server_id)

    async def close(self) -> None:
        """Write the counts that are pending."""
        try:
            await self._counts.close()
        except ApplianceError as exc:
            log.warning(
                "counts of webhooks are lost", extra={"action": "mdm_hook_counts_lost", "reason": exc.message}
            )


def _proven(secret: str, path_secret: str, headers: Mapping[str, str]) -> bool:
    """Whether any of the three proofs is right; every one is compared, in constant time."""
    lower = {name.lower(): value for name, value in headers.items()}
    kind, _, value = lower.get("authorization", "").partition(" ")
    user, password = _basic(value.strip()) if kind.lower() == "basic" else ("", "")
    return (
        _same(secret, path_secret)
        | _same(secret, lower.get(TOKEN_HEADER.lower(), ""))
        | (_same(USER, user) & _same(secret, password))
    )


def _basic(text: str) -> tuple[str, str]:
    try:
        user, _, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return "", ""
    return user, password


def _same(wanted: str, given: str) -> bool:
    """Compare digests, so that not even the length shows in the time."""
    digests = (hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest() for text in (wanted, given))
    return hmac.compare_digest(*digests)
