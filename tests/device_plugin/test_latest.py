import threading

from device_plugin.latest import Latest


def test_a_reader_gets_the_value_that_is_there_and_each_newer_one() -> None:
    latest = Latest("first")
    values = latest.each(lambda: True)
    assert next(values) == "first"
    latest.set("second")
    assert next(values) == "second"


def test_a_slow_reader_skips_what_was_overtaken() -> None:
    latest = Latest(0)
    values = latest.each(lambda: True)
    assert next(values) == 0
    for number in (1, 2, 3):
        latest.set(number)
    assert next(values) == 3


def test_a_closed_one_still_tells_its_last_value_and_then_ends() -> None:
    latest = Latest("before")
    values = latest.each(lambda: True)
    assert next(values) == "before"
    latest.set("last words")
    latest.close()
    assert list(values) == ["last words"]


def test_closing_ends_a_reader_that_waits() -> None:
    latest = Latest(0)
    seen: list[int] = []
    reader = threading.Thread(target=lambda: seen.extend(latest.each(lambda: True)))
    reader.start()
    latest.close()
    reader.join(10)
    assert not reader.is_alive()
    assert seen == [0]


def test_a_reader_that_nobody_listens_to_ends_when_it_is_woken() -> None:
    latest = Latest(0)
    listened_to = threading.Event()
    listened_to.set()
    values = latest.each(listened_to.is_set)
    assert next(values) == 0
    reader = threading.Thread(target=lambda: list(values))
    reader.start()
    listened_to.clear()
    latest.wake()
    reader.join(10)
    assert not reader.is_alive()
