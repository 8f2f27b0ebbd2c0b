"""Writes with a deadline, by the real child process of each device. DESIGN section 2; field problem 15."""

import os
import sys
from pathlib import Path

import pytest

from nodelib.errors import DeviceHung
from nodelib.kernel_writes import KernelWriter
from tests.nodelib import stuck_writer
from tests.nodelib.samples import DEADLINE_S, at, wait_until

GPU, OTHER = at("3b"), at("9b")


def is_free(writer: KernelWriter, path: Path) -> bool:
    try:
        writer.write(GPU, path, "2")
    except DeviceHung:
        return False
    return True


def test_a_write_in_a_child_lands_in_the_attribute(tmp_path: Path) -> None:
    path = tmp_path / "unbind"
    path.write_text("before")
    KernelWriter().write(GPU, path, "0000:3b:00.0", DEADLINE_S)
    assert path.read_text() == "0000:3b:00.0"


def test_the_kernels_errno_and_the_path_are_passed_on(tmp_path: Path) -> None:
    writer = KernelWriter()
    for path, kind in ((tmp_path / "absent", FileNotFoundError), (tmp_path, IsADirectoryError)):
        with pytest.raises(kind) as caught:
            writer.write(GPU, path, "1", DEADLINE_S)
        assert caught.value.filename == str(path)


def test_a_child_that_dies_without_an_answer_is_an_error_and_no_success(tmp_path: Path) -> None:
    writer = KernelWriter((sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"))
    with pytest.raises(OSError, match="the process that writes died"):
        writer.write(GPU, tmp_path / "reset", "1", DEADLINE_S)


def test_a_write_that_never_returns_ends_at_the_deadline(tmp_path: Path) -> None:
    """To open a FIFO for writing waits for a reader, as `unbind` waits for the user of a VFIO device."""
    path = tmp_path / "unbind"
    os.mkfifo(path)
    other = tmp_path / "other"
    other.touch()
    writer = KernelWriter()
    with pytest.raises(
        DeviceHung, match=r"0000:3b:00\.0: the kernel did not finish the write to .*/unbind within 0\.1 s"
    ):
        writer.write(GPU, path, "0000:3b:00.0", 0.1)
    wait_until(lambda: is_free(writer, other))


def test_a_device_gets_no_second_write_while_the_kernel_holds_the_first_and_others_do(tmp_path: Path) -> None:
    """A process inside the kernel dies only when the kernel lets go."""
    release, path = tmp_path / "release", tmp_path / "reset"
    os.mkfifo(release)
    path.touch()
    writer = KernelWriter((sys.executable, stuck_writer.__file__, str(release)))
    try:
        # Long enough for the child to have got stuck, on a busy machine too.
        with pytest.raises(DeviceHung, match="did not finish the write"):
            writer.write(GPU, path, stuck_writer.STUCK, 1.0)
    except OSError as error:
        pytest.skip(f"no process can be made to outlive SIGKILL here ({error})")
    try:
        with pytest.raises(DeviceHung, match=r"the kernel still holds an earlier write \(process \d+\)"):
            writer.write(GPU, path, "2")
        with pytest.raises(DeviceHung, match="still holds an earlier write"):
            writer.write_at(GPU, path, 0, b"2")
        with pytest.raises(DeviceHung, match="still holds an earlier write"), writer.session(GPU):
            writer.write(GPU, path, "2")
        assert path.read_text() == ""
        writer.write(OTHER, path, "other", DEADLINE_S)
        assert path.read_text() == "other"
    finally:
        with release.open("wb"):
            pass
    wait_until(lambda: is_free(writer, path))
    writer.write(GPU, path, "2", DEADLINE_S)
    assert path.read_text() == "2"


def test_configuration_space_is_written_in_place(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_bytes(bytes(8))
    KernelWriter().write_at(GPU, path, 4, b"\x06\x01")
    assert path.read_bytes() == b"\0\0\0\0\x06\x01\0\0"
    with pytest.raises(FileNotFoundError):
        KernelWriter().write_at(GPU, tmp_path / "absent", 4, b"\x06\x01")
    assert not (tmp_path / "absent").exists()


def test_the_writes_of_a_session_share_one_process_which_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "driver_override"
    path.touch()
    writer = KernelWriter()
    with writer.session(GPU):
        pids = set()
        for value in ("vfio-pci", "\n"):
            writer.write(GPU, path, value, DEADLINE_S)
            assert path.read_text() == value
            pids.add(writer._children[GPU].pid)
        (pid,) = pids
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()
    assert not writer._children


def test_a_session_in_which_a_write_hangs_ends_and_leaves_the_device_refused(tmp_path: Path) -> None:
    path, other = tmp_path / "unbind", tmp_path / "other"
    os.mkfifo(path)
    other.touch()
    writer = KernelWriter()
    with pytest.raises(DeviceHung, match="did not finish the write"), writer.session(GPU):
        writer.write(GPU, path, "1", 0.1)
    wait_until(lambda: is_free(writer, other))
