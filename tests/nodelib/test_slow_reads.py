"""Reading files that can block in the kernel. DESIGN section 2; field problems 2 and 44."""

import errno
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodelib import slow_reads
from nodelib.errors import NodeError
from nodelib.slow_reads import SlowReader
from tests.nodelib.samples import wait_until


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


def read(reader: SlowReader, path: Path) -> bytes | OSError | None:
    """To open a FIFO for reading waits for a writer, as a read of `config` waits for a reset."""
    return reader.read([str(path)], 64)[str(path)]


def kill(reader: SlowReader) -> None:
    assert reader._process is not None
    reader._process.kill()
    reader._process.wait()


def test_as_many_bytes_as_were_asked_for_are_read(reader: SlowReader, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(bytes(range(256)))
    assert read(reader, path) == bytes(range(64))
    assert reader.read([str(path)], 4096)[str(path)] == bytes(range(256))


def test_what_cannot_be_read_is_its_errno_beside_the_others(reader: SlowReader, tmp_path: Path) -> None:
    well = tmp_path / "well"
    well.write_bytes(b"x")
    answers = reader.read([str(tmp_path / "absent"), str(tmp_path), str(well)], 64)
    numbers = [answer.errno for answer in answers.values() if isinstance(answer, OSError)]
    assert numbers == [errno.ENOENT, errno.EISDIR]
    assert answers[str(well)] == b"x"


def test_an_empty_file_is_no_failure(reader: SlowReader, tmp_path: Path) -> None:
    (tmp_path / "driver_override").touch()
    assert read(reader, tmp_path / "driver_override") == b""


def test_nothing_asked_starts_no_process(reader: SlowReader) -> None:
    assert reader.read([], 64) == {}
    assert reader._process is None


def test_what_changed_is_seen_by_the_next_read(reader: SlowReader, tmp_path: Path) -> None:
    path = tmp_path / "config"
    for content in (b"one", b"two"):
        path.write_bytes(content)
        assert read(reader, path) == content


def test_a_path_that_is_asked_for_twice_is_one_question(reader: SlowReader, tmp_path: Path) -> None:
    (tmp_path / "config").write_bytes(b"x")
    assert reader.read([str(tmp_path / "config")] * 2, 64) == {str(tmp_path / "config"): b"x"}


def test_hundreds_of_files_are_read_at_once(reader: SlowReader, tmp_path: Path) -> None:
    contents = {str(tmp_path / str(number)): b"%d" % number for number in range(300)}
    for path, content in contents.items():
        Path(path).write_bytes(content)
    assert reader.read(contents, 64) == contents


def test_a_file_that_hangs_is_told_while_the_others_answer(impatient: SlowReader, tmp_path: Path) -> None:
    stuck, well = tmp_path / "stuck", tmp_path / "well"
    os.mkfifo(stuck)
    well.write_bytes(b"x")

    def well_answers() -> bool:
        answers = impatient.read([str(stuck), str(well)], 64)
        assert answers[str(stuck)] is None
        return answers[str(well)] == b"x"

    wait_until(well_answers)
    wait_until(well_answers)  # while the first is not even asked any more


def test_a_file_that_hung_answers_again_and_never_with_what_is_past(impatient: SlowReader, tmp_path: Path) -> None:
    """Field problem 2: Unhealthy *and back to Healthy*."""
    path = tmp_path / "config"
    os.mkfifo(path)
    assert read(impatient, path) is None
    with path.open("wb") as device:  # the read that hung is answered
        path.unlink()
        path.write_bytes(b"new")
        device.write(b"old")

    def is_back() -> bool:
        answer = read(impatient, path)
        assert answer in (None, b"new")
        return answer is not None

    wait_until(is_back)


def test_a_hanging_file_is_not_asked_again_until_its_old_answer_came(impatient: SlowReader, tmp_path: Path) -> None:
    """Else each round would add a request that hangs."""
    stuck, well = tmp_path / "stuck", tmp_path / "well"
    os.mkfifo(stuck)
    well.write_bytes(b"x")
    for _ in range(3):
        assert read(impatient, stuck) is None
    stuck.write_bytes(b"late")
    wait_until(lambda: not impatient._waiting)
    wait_until(lambda: read(impatient, well) == b"x")
    # A FIFO that nobody has open for reading, nor waits to open, refuses a writer that does not wait (fifo(7)).
    with pytest.raises(OSError, match="No such device or address"):
        os.open(stuck, os.O_WRONLY | os.O_NONBLOCK)


def test_a_killed_worker_is_replaced_at_the_next_read(reader: SlowReader, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(b"x")
    assert read(reader, path) == b"x"
    kill(reader)
    assert read(reader, path) == b"x"


def test_what_a_killed_worker_was_asked_is_asked_again(impatient: SlowReader, tmp_path: Path) -> None:
    path = tmp_path / "config"
    os.mkfifo(path)
    assert read(impatient, path) is None
    kill(impatient)
    path.unlink()
    path.write_bytes(b"x")
    wait_until(lambda: read(impatient, path) == b"x")


def test_a_worker_that_dies_while_it_is_asked_is_replaced_too(impatient: SlowReader, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(b"x")
    wait_until(lambda: read(impatient, path) == b"x")
    process = impatient._process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    # More than a pipe holds (64 KiB): the question waits for the stopped worker, whose death cuts it short.
    many = [f"{tmp_path}/{'x' * 200}/{number}/{'y' * 200}" for number in range(250)]
    asking = threading.Thread(target=impatient.read, args=(many, 64))
    asking.start()
    wait_until(lambda: len(impatient._waiting) == len(many))
    process.kill()
    asking.join()
    wait_until(lambda: read(impatient, path) == b"x")


def test_a_closed_reader_leaves_no_process_and_may_be_used_again(reader: SlowReader, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(b"x")
    assert read(reader, path) == b"x"
    process = reader._process
    assert process is not None
    reader.close()
    assert process.poll() is not None
    reader.close()
    assert read(reader, path) == b"x"


def test_a_process_that_was_started_ahead_is_the_one_that_reads(reader: SlowReader, tmp_path: Path) -> None:
    (tmp_path / "config").write_bytes(b"x")
    reader.start()
    assert reader._process is not None
    ahead = reader._process.pid
    reader.start()
    assert read(reader, tmp_path / "config") == b"x"
    assert reader._process.pid == ahead


def test_a_process_that_cannot_be_started_is_one_sentence(
    reader: SlowReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_reads, "_CHILD", (str(tmp_path / "absent"),))
    reader.start()
    with pytest.raises(NodeError, match=r"cannot start the process that reads what can block \(No such file"):
        reader.read([str(tmp_path / "config")], 64)
