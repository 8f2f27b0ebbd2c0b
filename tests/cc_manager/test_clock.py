"""Waiting in a time that is handed in."""

import pytest

from cc_manager.clock import Clock
from tests.cc_manager.scripted import FakeTime


def test_a_condition_that_holds_already_is_not_slept_for() -> None:
    time = FakeTime()
    assert time.clock.wait_until(lambda: True, timeout_s=5, poll_s=0.01)
    assert time.slept == []


def test_a_condition_that_comes_true_ends_the_wait() -> None:
    time = FakeTime()
    assert time.clock.wait_until(lambda: time.now >= 100.03, timeout_s=5, poll_s=0.01)
    assert time.slept == [0.01, 0.01, 0.01]


def test_a_condition_that_never_comes_true_is_given_up_at_the_limit() -> None:
    time = FakeTime()
    assert not time.clock.wait_until(lambda: False, timeout_s=0.05, poll_s=0.01)
    assert time.slept == [0.01] * 5


def test_a_process_that_was_held_up_past_the_limit_looks_once_more() -> None:
    time = FakeTime(lag_s=60)
    assert time.clock.wait_until(lambda: time.now > 100, timeout_s=5, poll_s=0.01)


def test_a_sleep_that_raises_ends_the_wait() -> None:
    class ToldToStop(Exception):
        pass

    def sleep(seconds: float) -> None:
        raise ToldToStop

    with pytest.raises(ToldToStop):
        Clock(sleep=sleep).wait_until(lambda: False, timeout_s=5, poll_s=0.01)
