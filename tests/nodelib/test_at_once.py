"""One thing done for many devices at the same time."""

import subprocess
import sys
import threading

import pytest

from nodelib.at_once import at_once
from tests.nodelib.samples import DEADLINE_S


def test_results_come_in_the_order_of_the_items() -> None:
    assert at_once(lambda number: number * 2, range(50)) == tuple(range(0, 100, 2))
    assert at_once(str, []) == ()


def test_all_are_at_work_at_the_same_time() -> None:
    meeting = threading.Barrier(8)
    at_once(lambda _: meeting.wait(DEADLINE_S), range(8))  # a barrier that nobody else reaches breaks


def test_no_more_are_at_work_than_are_allowed() -> None:
    lock, working, most = threading.Lock(), 0, 0

    def work(_: int) -> None:
        nonlocal working, most
        with lock:
            working += 1
            most = max(most, working)
        with lock:
            working -= 1

    at_once(work, range(40), most=3)
    assert 1 <= most <= 3


def test_one_that_raises_does_not_keep_the_others_from_ending() -> None:
    ended: list[int] = []

    def work(number: int) -> None:
        if number == 1:
            raise KeyError("one")
        ended.append(number)

    with pytest.raises(KeyError, match="one"):
        at_once(work, range(4))
    assert sorted(ended) == [0, 2, 3]


def test_a_thread_that_never_ends_does_not_keep_a_stopped_process_alive() -> None:
    script = (
        "import threading, time\n"
        "from nodelib.at_once import at_once\n"
        "threading.Thread(target=at_once, args=(time.sleep, [3600]), daemon=True).start()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=DEADLINE_S)
