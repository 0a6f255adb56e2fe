"""Counts webhooks in memory and writes the counts to the servers at most once a second."""

import asyncio
import contextlib
import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from appliance.domain.errors import ApplianceError

from ..servers.health import ServerHealth

log = logging.getLogger(__name__)

FLUSH_S = 1.0


@dataclass(slots=True)
class _Pending:
    counts: Counter[str] = field(default_factory=Counter)
    facts: dict[str, Any] = field(default_factory=dict)


class HookCounts:
    """What is known of deliveries and not yet written. It grows with the servers, not with the deliveries."""

    def __init__(self, servers: ServerHealth, flush_s: float = FLUSH_S) -> None:
        self._servers = servers
        self._flush_s = flush_s
        self._pending: dict[str, _Pending] = {}
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def add(self, server_id: str, *counters: str, **facts: Any) -> None:
        """Count one, and set facts such as `last_hook_at`."""
        pending = self._pending.setdefault(server_id, _Pending())
        pending.counts.update(counters)
        pending.facts.update(facts)
        if self._task is None:
            self._task = asyncio.create_task(self._later())

    async def _later(self) -> None:
        try:
            while self._pending and not self._closing.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), self._flush_s)
                await self.flush()
        finally:
            self._task = None

    async def flush(self) -> None:
        """Write what is pending; what cannot be written now stays."""
        pending, self._pending = self._pending, {}
        for server_id, one in pending.items():
            try:
                await self._servers.count(server_id, dict(one.counts), **one.facts)
            except ApplianceError as exc:
                self._keep(server_id, one)
                log.warning(
                    "counts of webhooks cannot be written; they are kept",
                    extra={"action": "mdm_hook_counts_failed", "mdm": server_id, "reason": exc.message},
                )

    def _keep(self, server_id: str, one: _Pending) -> None:
        newer = self._pending.setdefault(server_id, _Pending())
        newer.counts.update(one.counts)
        newer.facts = {**one.facts, **newer.facts}

    async def close(self) -> None:
        """Write what is pending, once. A write under way is waited for: cut off, its counts would be lost."""
        self._closing.set()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        await self.flush()
        self._closing.clear()
