"""The process that reads what can block, spoken to as `slow_reads` does."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodelib import slow_read_worker


@pytest.fixture
def worker() -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-I", "-S", slow_read_worker.__file__]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()


def ask(worker: "subprocess.Popen[str]", *paths: Path) -> None:
    assert worker.stdin is not None
    worker.stdin.writelines(f"{path}\t64\n" for path in paths)
    worker.stdin.flush()


def answer(worker: "subprocess.Popen[str]") -> tuple[str, str]:
    assert worker.stdout is not None
    path, _, text = worker.stdout.readline().rstrip("\n").partition("\t")
    return path, text


def test_as_many_bytes_as_were_asked_for_are_answered_in_hex(worker: "subprocess.Popen[str]", tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(bytes(range(256)))
    ask(worker, path)
    assert answer(worker) == (str(path), bytes(range(64)).hex())


def test_what_cannot_be_read_is_answered_with_its_errno(worker: "subprocess.Popen[str]", tmp_path: Path) -> None:
    ask(worker, tmp_path / "absent")
    assert answer(worker) == (str(tmp_path / "absent"), "E2")
    ask(worker, tmp_path)
    assert answer(worker) == (str(tmp_path), "E21")


def test_a_device_that_blocks_holds_no_other_up_and_answers_later(
    worker: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    """Field problem 44. To open a FIFO for reading waits for a writer, as a read waits for a reset."""
    stuck, well = tmp_path / "stuck", tmp_path / "well"
    os.mkfifo(stuck)
    well.write_bytes(b"\xde\x10")
    ask(worker, stuck, well, well)
    assert [answer(worker), answer(worker)] == [(str(well), "de10")] * 2
    stuck.write_bytes(b"\xde\x11")
    assert answer(worker) == (str(stuck), "de11")


def test_the_worker_ends_with_its_input_although_a_device_blocks(
    worker: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "stuck")
    ask(worker, tmp_path / "stuck")
    assert worker.stdin is not None
    worker.stdin.close()
    assert worker.wait(timeout=10) == 0
