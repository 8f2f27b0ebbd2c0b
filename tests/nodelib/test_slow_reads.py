"""Reading what can block, through a process that can be abandoned. DESIGN section 2; field problems 2 and 44."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodelib.slow_reads import SlowReader
from tests.nodelib.samples import wait_until

HEADER = bytes.fromhex("de10352306011000") + bytes(56)
ALL_ONES = b"\xff" * 64


@pytest.fixture
def reader() -> Iterator[SlowReader]:
    reader = SlowReader(timeout_s=5.0)
    try:
        yield reader
    finally:
        reader.close()


@pytest.fixture
def impatient() -> Iterator[SlowReader]:
    reader = SlowReader(timeout_s=0.2)
    try:
        yield reader
    finally:
        reader.close()


def config(folder: Path, content: bytes) -> Path:
    path = folder / "config"
    path.write_bytes(content)
    return path


def answer_of(reader: SlowReader, path: Path) -> bytes | OSError | None:
    return reader.read([str(path)], 64)[str(path)]


def kill(reader: SlowReader) -> None:
    assert reader._process is not None
    reader._process.kill()
    reader._process.wait()


def test_a_file_is_read_up_to_the_size_that_was_asked_for(reader: SlowReader, tmp_path: Path) -> None:
    assert answer_of(reader, config(tmp_path, HEADER + bytes(192))) == HEADER
    assert answer_of(reader, config(tmp_path, b"")) == b""


def test_what_cannot_be_read_says_why(reader: SlowReader, tmp_path: Path) -> None:
    answer = answer_of(reader, tmp_path / "config")
    assert isinstance(answer, FileNotFoundError)


def test_no_file_is_no_answer_and_no_process(reader: SlowReader) -> None:
    assert reader.read([], 64) == {}
    assert reader._process is None


def test_what_changed_is_seen_by_the_next_read(reader: SlowReader, tmp_path: Path) -> None:
    path = config(tmp_path, HEADER)
    assert answer_of(reader, path) == HEADER
    path.write_bytes(ALL_ONES)
    assert answer_of(reader, path) == ALL_ONES
    path.write_bytes(HEADER)
    assert answer_of(reader, path) == HEADER


def test_hundreds_of_devices_are_asked_at_once(reader: SlowReader, tmp_path: Path) -> None:
    for bus in range(200):
        (tmp_path / f"{bus}").write_bytes(bus.to_bytes(2, "little") + bytes(62))
    answers = reader.read([str(tmp_path / f"{bus}") for bus in range(200)], 1)
    assert answers == {str(tmp_path / f"{bus}"): bytes([bus]) for bus in range(200)}


def test_a_device_that_hangs_is_told_while_the_others_answer(impatient: SlowReader, tmp_path: Path) -> None:
    stuck = tmp_path / "stuck"
    os.mkfifo(stuck)
    well = config(tmp_path, HEADER)

    def well_answers() -> bool:
        answers = impatient.read([str(stuck), str(well)], 64)
        assert answers[str(stuck)] is None
        return answers[str(well)] == HEADER

    wait_until(well_answers)
    wait_until(well_answers)  # while the first is not even asked any more


def test_a_device_that_hung_answers_again(impatient: SlowReader, tmp_path: Path) -> None:
    """Field problem 2: Unhealthy *and back to Healthy*."""
    path = tmp_path / "config"
    os.mkfifo(path)
    assert answer_of(impatient, path) is None
    with path.open("wb") as device:  # the read that hung is answered
        path.unlink()
        config(tmp_path, HEADER)
        device.write(ALL_ONES)

    def is_back() -> bool:
        answer = answer_of(impatient, path)
        assert answer != ALL_ONES  # the late answer tells of the past
        return answer == HEADER

    wait_until(is_back)


def test_a_hanging_device_is_not_asked_again_until_its_old_answer_came(impatient: SlowReader, tmp_path: Path) -> None:
    """Else each round would add a request that hangs."""
    stuck = tmp_path / "stuck"
    os.mkfifo(stuck)
    for _ in range(3):
        assert answer_of(impatient, stuck) is None
    stuck.write_bytes(HEADER)
    wait_until(lambda: not impatient._waiting)
    wait_until(lambda: answer_of(impatient, config(tmp_path, HEADER)) == HEADER)
    # A FIFO that nobody has open for reading, nor waits to open, refuses a writer that does not wait (fifo(7)).
    with pytest.raises(OSError, match="No such device or address"):
        os.open(stuck, os.O_WRONLY | os.O_NONBLOCK)


def test_a_killed_worker_is_replaced_at_the_next_read(reader: SlowReader, tmp_path: Path) -> None:
    path = config(tmp_path, HEADER)
    assert answer_of(reader, path) == HEADER
    kill(reader)
    assert answer_of(reader, path) == HEADER


def test_what_a_killed_worker_was_asked_is_asked_again(impatient: SlowReader, tmp_path: Path) -> None:
    path = tmp_path / "config"
    os.mkfifo(path)
    assert answer_of(impatient, path) is None
    kill(impatient)
    path.unlink()
    config(tmp_path, HEADER)
    wait_until(lambda: answer_of(impatient, path) == HEADER)


def test_a_worker_that_dies_while_it_is_asked_is_replaced_too(impatient: SlowReader, tmp_path: Path) -> None:
    path = config(tmp_path, HEADER)
    wait_until(lambda: answer_of(impatient, path) == HEADER)
    process = impatient._process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    # More than a pipe holds (64 KiB): the question waits for the stopped worker, whose death cuts it short.
    many = [str(tmp_path / ("x" * 200) / str(number) / ("y" * 200)) for number in range(250)]
    asking = threading.Thread(target=impatient.read, args=(many, 64))
    asking.start()
    wait_until(lambda: len(impatient._waiting) == len(many))
    process.kill()
    asking.join()
    wait_until(lambda: answer_of(impatient, path) == HEADER)


def test_a_closed_reader_leaves_no_process_and_may_be_used_again(reader: SlowReader, tmp_path: Path) -> None:
    path = config(tmp_path, HEADER)
    assert answer_of(reader, path) == HEADER
    process = reader._process
    assert process is not None
    reader.close()
    assert process.poll() is not None
    reader.close()
    assert answer_of(reader, path) == HEADER
