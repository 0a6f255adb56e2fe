"""Guessing gets slower."""

from appliance.domain.errors import TooManyAttempts
from appliance.service.throttle import CAP_S, FREE, Throttle


class Clock:
    def __init__(self) -> None:
        self.ms = 1_800_000_000_000

    def __call__(self) -> int:
        return self.ms


def fail(throttle: Throttle, times: int, source: str = "a") -> None:
    for _ in range(times):
        throttle.failed(source)


def wait_of(throttle: Throttle, source: str = "a") -> int:
    refused: TooManyAttempts | None = None
    try:
        throttle.check(source)
    except TooManyAttempts as exc:
        refused = exc
    if refused is None:
        return 0
    seconds = refused.details["retry_after"]
    assert isinstance(seconds, int)
    assert f"{seconds} s" in refused.message
    return seconds


def test_a_few_mistakes_cost_nothing() -> None:
    throttle = Throttle(Clock())
    fail(throttle, FREE - 1)
    assert wait_of(throttle) == 0


def test_then_each_doubles_the_wait_up_to_a_limit() -> None:
    throttle = Throttle(Clock())
    fail(throttle, FREE - 1)
    waits = []
    for _ in range(14):
        fail(throttle, 1)
        waits.append(wait_of(throttle))
    assert waits == [min(CAP_S, 2**n) for n in range(14)]


def test_waiting_helps_and_its_end_is_stated_exactly() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    fail(throttle, FREE + 3)
    assert wait_of(throttle) == 8
    clock.ms += 7_001
    assert wait_of(throttle) == 1
    clock.ms += 999
    assert wait_of(throttle) == 0
    fail(throttle, 1)
    assert wait_of(throttle) == 16, "the count goes on"


def test_success_starts_over_and_sources_are_apart() -> None:
    throttle = Throttle(Clock())
    fail(throttle, 20)
    assert wait_of(throttle) == CAP_S
    assert wait_of(throttle, "b") == 0
    throttle.succeeded("a")
    assert wait_of(throttle) == 0


def test_many_sources_do_not_fill_the_memory() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    for number in range(10_000):
        throttle.failed(number)
    clock.ms += 3_600_001
    fail(throttle, FREE)
    assert wait_of(throttle) == 1
    assert len(throttle._failures) == 1


def test_a_flood_of_sources_within_the_hour_is_bounded_too() -> None:
    throttle = Throttle(Clock())
    for number in range(25_000):
        throttle.failed(number)
    assert len(throttle._failures) <= 10_000


def test_a_source_that_is_quiet_for_long_starts_over() -> None:
    clock = Clock()
    throttle = Throttle(clock, free=2, cap_s=30, forget_ms=60_000)
    fail(throttle, 20)
    assert wait_of(throttle) == 30
    clock.ms += 60_000
    fail(throttle, 1)
    assert wait_of(throttle) == 30, "just in time"
    clock.ms += 60_001
    fail(throttle, 1)
    assert wait_of(throttle) == 0


def test_a_clock_that_was_ahead_makes_no_wait_longer() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    clock.ms += 7_200_000
    fail(throttle, FREE)
    wait = wait_of(throttle)
    clock.ms -= 7_200_000
    assert wait_of(throttle) == wait
    clock.ms += wait * 1000
    assert wait_of(throttle) == 0
