"""The process's one timer, on the real kernel and loop."""

import asyncio
import time

import pytest
import uvloop

from bondvpn.linux.timer import LONGEST_S, Timer


async def _waited(delays: list[float], most_s: float) -> list[float]:
    """When, after it was set to each of these in turn, a timer called back, in seconds."""
    came: list[float] = []
    began = time.monotonic()
    timer = Timer(asyncio.get_running_loop(), lambda: came.append(time.monotonic() - began))
    for delay in delays:
        timer.set(delay)
    await asyncio.sleep(most_s)
    timer.close()
    return came


def test_it_calls_back_once_and_never_early() -> None:
    came = uvloop.run(_waited([0.0123], 0.1))
    assert len(came) == 1
    assert came[0] >= 0.0123


def test_what_it_is_set_to_last_counts() -> None:
    came = uvloop.run(_waited([0.001, 0.030], 0.1))
    assert len(came) == 1
    assert came[0] >= 0.030


@pytest.mark.parametrize("delay", [float("inf"), LONGEST_S])
def test_what_is_never_due_does_not_come(delay: float) -> None:
    assert uvloop.run(_waited([0.001, delay], 0.02)) == []


def test_what_the_callback_raises_is_not_taken_for_a_timer_that_was_set_anew() -> None:
    async def fails() -> list[BaseException]:
        loop = asyncio.get_running_loop()
        raised: list[BaseException] = []
        loop.set_exception_handler(lambda _, context: raised.append(context["exception"]))

        def callback() -> None:
            raise BlockingIOError

        timer = Timer(loop, callback)
        timer.set(0.001)
        await asyncio.sleep(0.05)
        timer.close()
        return raised

    assert [type(error) for error in uvloop.run(fails())] == [BlockingIOError]


def test_it_comes_between_milliseconds() -> None:
    """libuv's own timers come at whole ones: of 400 waits of 0.3 ms none would take less than 1 ms."""

    async def shortest() -> float:
        loop = asyncio.get_running_loop()
        waits = []
        for _ in range(400):
            came: asyncio.Future[float] = loop.create_future()
            began = time.monotonic()
            timer = Timer(loop, lambda: came.set_result(time.monotonic()))  # noqa: B023  awaited at once
            timer.set(0.0003)
            waits.append(await came - began)
            timer.close()
        return min(waits)

    assert 0.0003 <= uvloop.run(shortest()) < 0.001


def test_set_anew_after_it_has_expired_but_before_the_loop_has_seen_it() -> None:
    async def late() -> list[float]:
        came: list[float] = []
        began = time.monotonic()
        timer = Timer(asyncio.get_running_loop(), lambda: came.append(time.monotonic() - began))
        timer.set(0.001)
        time.sleep(0.005)  # the loop is busy
        timer.set(0.050)
        await asyncio.sleep(0.1)
        timer.close()
        return came

    came = uvloop.run(late())
    assert len(came) == 1
    assert came[0] >= 0.055
