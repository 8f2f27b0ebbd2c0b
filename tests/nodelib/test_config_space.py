"""Configuration space through a process that can be abandoned. DESIGN section 2; field problems 2 and 44."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodelib.config_space import ConfigAnswer, ConfigReader
from nodelib.pci import ConfigState, PciAddress
from tests.nodelib.samples import at, wait_until

HEADER = bytes.fromhex("de10352306011000") + bytes(56)
FIRST, SECOND = at("3b"), at("9b")


@pytest.fixture
def reader() -> Iterator[ConfigReader]:
    reader = ConfigReader(timeout_s=5.0)
    try:
        yield reader
    finally:
        reader.close()


@pytest.fixture
def impatient() -> Iterator[ConfigReader]:
    reader = ConfigReader(timeout_s=0.2)
    try:
        yield reader
    finally:
        reader.close()


def config(folder: Path, content: bytes) -> Path:
    path = folder / "config"
    path.write_bytes(content)
    return path


def state_of(reader: ConfigReader, path: Path) -> ConfigState:
    return reader.read({FIRST: path})[FIRST].state


def kill(reader: ConfigReader) -> None:
    assert reader._process is not None
    reader._process.kill()
    reader._process.wait()


def test_a_device_that_answers_gives_its_header(reader: ConfigReader, tmp_path: Path) -> None:
    answer = reader.read({FIRST: config(tmp_path, HEADER + bytes(192))})[FIRST]
    assert answer == ConfigAnswer(ConfigState.ANSWERS, HEADER)
    assert answer.command == 0x0106


@pytest.mark.parametrize(
    ("content", "state"),
    [
        (b"\xff" * 64, ConfigState.GONE),
        (b"\xff\xff" + bytes(62), ConfigState.GONE),  # 0xffff is no vendor
        (b"\xff\x10" + bytes(62), ConfigState.ANSWERS),
        (b"", ConfigState.UNREADABLE),
        (b"\xde", ConfigState.UNREADABLE),
    ],
)
def test_all_ones_means_gone_and_too_little_means_unreadable(
    reader: ConfigReader, tmp_path: Path, content: bytes, state: ConfigState
) -> None:
    answer = reader.read({FIRST: config(tmp_path, content)})[FIRST]
    assert answer.state is state
    assert (answer.command is None) is (state is not ConfigState.ANSWERS)


def test_a_file_that_is_not_there_is_unreadable(reader: ConfigReader, tmp_path: Path) -> None:
    assert state_of(reader, tmp_path / "config") is ConfigState.UNREADABLE


def test_no_device_is_no_answer(reader: ConfigReader) -> None:
    assert reader.read({}) == {}


def test_what_changed_is_seen_by_the_next_read(reader: ConfigReader, tmp_path: Path) -> None:
    path = config(tmp_path, HEADER)
    assert state_of(reader, path) is ConfigState.ANSWERS
    path.write_bytes(b"\xff" * 64)
    assert state_of(reader, path) is ConfigState.GONE
    path.write_bytes(HEADER)
    assert state_of(reader, path) is ConfigState.ANSWERS


def test_hundreds_of_devices_are_asked_at_once(reader: ConfigReader, tmp_path: Path) -> None:
    paths: dict[PciAddress, Path] = {}
    for bus in range(200):
        paths[PciAddress(0, bus, 0, 0)] = tmp_path / f"{bus}"
        (tmp_path / f"{bus}").write_bytes(bus.to_bytes(2, "little") + bytes(62))
    answers = reader.read(paths)
    assert {address.bus: answer.header[0] for address, answer in answers.items()} == {bus: bus for bus in range(200)}


def test_a_device_that_hangs_is_told_while_the_others_answer(impatient: ConfigReader, tmp_path: Path) -> None:
    stuck = tmp_path / "stuck"
    os.mkfifo(stuck)
    well = config(tmp_path, HEADER)

    def well_answers() -> bool:
        answers = impatient.read({FIRST: stuck, SECOND: well})
        assert answers[FIRST] == ConfigAnswer(ConfigState.HUNG)
        return answers[SECOND].state is ConfigState.ANSWERS

    wait_until(well_answers)
    wait_until(well_answers)  # while the first is not even asked any more


def test_a_device_that_hung_answers_again(impatient: ConfigReader, tmp_path: Path) -> None:
    """Field problem 2: Unhealthy *and back to Healthy*."""
    path = tmp_path / "config"
    os.mkfifo(path)
    assert state_of(impatient, path) is ConfigState.HUNG
    with path.open("wb") as device:  # the read that hung is answered
        path.unlink()
        config(tmp_path, HEADER)
        device.write(b"\xff" * 64)

    def is_back() -> bool:
        state = state_of(impatient, path)
        assert state is not ConfigState.GONE  # the late answer tells of the past
        return state is ConfigState.ANSWERS

    wait_until(is_back)


def test_a_hanging_device_is_not_asked_again_until_its_old_answer_came(impatient: ConfigReader, tmp_path: Path) -> None:
    """Else each round would add a request that hangs."""
    stuck = tmp_path / "stuck"
    os.mkfifo(stuck)
    for _ in range(3):
        assert state_of(impatient, stuck) is ConfigState.HUNG
    stuck.write_bytes(HEADER)
    wait_until(lambda: not impatient._waiting)
    wait_until(lambda: state_of(impatient, config(tmp_path, HEADER)) is ConfigState.ANSWERS)
    # A FIFO that nobody has open for reading, nor waits to open, refuses a writer that does not wait (fifo(7)).
    with pytest.raises(OSError, match="No such device or address"):
        os.open(stuck, os.O_WRONLY | os.O_NONBLOCK)


def test_a_killed_worker_is_replaced_at_the_next_read(reader: ConfigReader, tmp_path: Path) -> None:
    path = config(tmp_path, HEADER)
    assert state_of(reader, path) is ConfigState.ANSWERS
    kill(reader)
    assert state_of(reader, path) is ConfigState.ANSWERS


def test_what_a_killed_worker_was_asked_is_asked_again(impatient: ConfigReader, tmp_path: Path) -> None:
    path = tmp_path / "config"
    os.mkfifo(path)
    assert state_of(impatient, path) is ConfigState.HUNG
    kill(impatient)
    path.unlink()
    config(tmp_path, HEADER)
    wait_until(lambda: state_of(impatient, path) is ConfigState.ANSWERS)


def test_a_worker_that_dies_while_it_is_asked_is_replaced_too(impatient: ConfigReader, tmp_path: Path) -> None:
    path = config(tmp_path, HEADER)
    wait_until(lambda: state_of(impatient, path) is ConfigState.ANSWERS)
    process = impatient._process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    # More than a pipe holds (64 KiB): the question waits for the stopped worker, whose death cuts it short.
    many = {PciAddress(0, bus, 0, 0): tmp_path / ("x" * 200) / str(bus) / ("y" * 200) for bus in range(250)}
    asking = threading.Thread(target=impatient.read, args=(many,))
    asking.start()
    wait_until(lambda: len(impatient._waiting) == len(many))
    process.kill()
    asking.join()
    wait_until(lambda: state_of(impatient, path) is ConfigState.ANSWERS)


def test_a_closed_reader_leaves_no_process_and_may_be_used_again(reader: ConfigReader, tmp_path: Path) -> None:
    path = config(tmp_path, HEADER)
    assert state_of(reader, path) is ConfigState.ANSWERS
    process = reader._process
    assert process is not None
    reader.close()
    assert process.poll() is not None
    reader.close()
    assert state_of(reader, path) is ConfigState.ANSWERS
