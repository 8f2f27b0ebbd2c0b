"""A thread that waits for a descriptor."""

import os
import threading
from collections.abc import Iterator

import pytest

from nodelib.listening import listening
from tests.nodelib.samples import open_descriptors, wait_until


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def names_of_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_what_can_be_read_is_told_again_and_again(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    heard: list[bytes] = []
    with listening("listener", reader, lambda: heard.append(os.read(reader, 1))):
        assert "listener" in names_of_threads()
        os.write(writer, b"ab")
        wait_until(lambda: heard == [b"a", b"b"])
        os.write(writer, b"c")
        wait_until(lambda: heard == [b"a", b"b", b"c"])


def test_a_listener_that_hears_nothing_ends_when_it_is_told_to(pipe: tuple[int, int]) -> None:
    before = open_descriptors()
    with listening("listener", pipe[0], lambda: pytest.fail("nothing was written")):
        pass
    assert "listener" not in names_of_threads()
    assert open_descriptors() == before


def test_a_listener_ends_although_there_is_always_something_to_hear(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    heard = threading.Event()
    os.write(writer, b"a")
    with listening("listener", reader, heard.set):
        wait_until(heard.is_set)
    assert "listener" not in names_of_threads()
