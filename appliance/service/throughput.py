"""How many bytes came and went in the last hour, in steps of ten seconds, for a chart. Kept in memory only."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from appliance.jobs.supervisor import Supervisor

from .metrics import Metrics

STEP_S = 10
STEPS = 360


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What moved in the step that ended at a time."""

    at: int  #: UTC milliseconds
    received: int  #: bytes of packages, from uploads and peers
    sent: int  #: bytes of packages, to devices, people and peers


class Throughput:
    """Reads the counters of this process at a steady pace."""

    def __init__(self, metrics: Metrics, now: Callable[[], int], supervisor: Supervisor) -> None:
        self._metrics = metrics
        self._supervisor = supervisor
        self._now = now
        self._steps: deque[Step] = deque(maxlen=STEPS)
        self._last = (0, 0)
        self._task: asyncio.Task[None] | None = None

    def steps(self) -> list[Step]:
        """The last hour, oldest first; less after a start."""
        return list(self._steps)

    def rates(self) -> tuple[float, float]:
        """Bytes a second in the last step: received, sent."""
        if not self._steps:
            return 0.0, 0.0
        return self._steps[-1].received / STEP_S, self._steps[-1].sent / STEP_S

    def look(self) -> None:
        """End a step."""
        received, sent = self._metrics.moved()
        step = Step(at=self._now(), received=received - self._last[0], sent=sent - self._last[1])
        self._last = (received, sent)
        self._steps.append(step)

    async def start(self) -> None:
        """Begin to look."""
        self._last = self._metrics.moved()
        self._task = self._supervisor.start("throughput", self._run)

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(STEP_S)
            self.look()


def highest(steps: Iterable[Step]) -> float:
    """The highest rate in bytes a second, in either direction."""
    return max((max(step.received, step.sent) / STEP_S for step in steps), default=0.0)
