"""Drawings as numbers: what a template writes into an inline SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from appliance.service.throughput import STEP_S, STEPS, Step, highest

from .templating import human_rate

WIDTH, HEIGHT = 720, 190
LEFT, TOP, BOTTOM = 0, 24, 28
_FLOOR = 1_000_000.0  #: bytes a second: noise is not drawn as mountains


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """Two lines over the last hour."""

    width: int
    height: int
    received: str  #: points of a polyline
    received_area: str
    sent: str
    levels: list[tuple[float, str]]  #: heights of grid lines and what they mean
    summary: str  #: the same in words


def throughput_chart(steps: Sequence[Step]) -> Chart:
    """The throughput of the last hour; what was before the start is flat."""
    padded = [(0, 0)] * (STEPS - len(steps)) + [(step.received, step.sent) for step in steps]
    top = _round_up(max(_FLOOR, highest(steps)))
    floor, inner = HEIGHT - BOTTOM, HEIGHT - BOTTOM - TOP

    def points(values: Sequence[int]) -> str:
        gap = (WIDTH - LEFT) / (STEPS - 1)
        return " ".join(
            f"{LEFT + index * gap:.1f},{floor - inner * min(1.0, value / STEP_S / top):.1f}"
            for index, value in enumerate(values)
        )

    received, sent = points([pair[0] for pair in padded]), points([pair[1] for pair in padded])
    totals = sum(step.received for step in steps) / 3600, sum(step.sent for step in steps) / 3600
    return Chart(
        width=WIDTH,
        height=HEIGHT,
        received=received,
        received_area=f"{LEFT},{floor} {received} {WIDTH},{floor}",
        sent=sent,
        levels=[(floor - inner * part, human_rate(top * part)) for part in (0.0, 0.5, 1.0)],
        summary=f"In the last hour on average {human_rate(totals[0])} in and {human_rate(totals[1])} out, "
        f"at most {human_rate(highest(steps))}.",
    )


def _round_up(value: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 2, 5, 10) if power * step >= value)
