"""The daemon: it binds what appears, tells the truth in its ready file, and leaves the devices bound at its end."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator

import pytest

from nodelib.files import HostRoot
from nodelib.node import Node
from nodelib.settings import DaemonSettings
from nodelib.sysfs import Sysfs
from tests.fakes.kernel import FakeKernel
from tests.fakes.parts import gpu
from tests.fakes.polling import DEADLINE_S, until
from tests.vfio_manager.builders import (
    AUDIO,
    BOUND,
    GPU,
    OTHER_GPU,
    RunningBinder,
    add_card,
    add_other_gpu,
    bind,
    driver_of,
    shown,
    writes_for,
)
from vfio_manager.settings import READY_FILE, Settings

VARIANT = "nvgrace_gpu_vfio_pci"


def test_the_ready_file_is_there_while_all_is_bound_and_gone_at_the_end_with_the_devices_still_bound(
    kernel: FakeKernel,
) -> None:
    # facts/field-problems.md, row 13; facts/labels-and-settings.md, "Files on the host"
    with RunningBinder(kernel.node()) as running:
        running.wait_ready()
        assert running.ready_file == kernel.host.root / "run/nvidia/validations/vfio-pci-ready"
        assert running.ready_file.exists()
        assert running.last.message == "all 3 functions are on their VFIO drivers"
        written = list(kernel.writes)
    assert not running.ready_file.exists()
    assert [shown(kernel, address) for address in (GPU, AUDIO, OTHER_GPU)] == [BOUND] * 3
    assert kernel.writes == written, "stopping wrote something"


def test_a_gpu_that_is_plugged_in_is_bound_at_its_event(bare_kernel: FakeKernel) -> None:
    with RunningBinder(bare_kernel.node()) as running:
        running.wait_ready()
        add_other_gpu(bare_kernel, on=None)
        until(lambda: shown(bare_kernel, OTHER_GPU) == BOUND)


def test_a_gpu_that_nvidia_takes_on_arrival_is_taken_back(kernel: FakeKernel) -> None:
    with RunningBinder(kernel.node()) as running:
        running.wait_ready()
        kernel.unplug(OTHER_GPU)
        kernel.plug_back(OTHER_GPU)
        until(lambda: driver_of(kernel, OTHER_GPU) == "vfio-pci")
        running.wait_ready()
    assert writes_for(kernel, OTHER_GPU).count("unbind nvidia") == 2


def test_a_driver_that_is_loaded_late_and_grabs_a_device_loses_it_again(bare_kernel: FakeKernel) -> None:
    # The kernel refuses the bind at first, so the device is free to be grabbed.
    add_other_gpu(bare_kernel, on=None)
    bare_kernel.faults.fail[(OTHER_GPU, "bind")] = errno.EBUSY
    with RunningBinder(bare_kernel.node(), Settings(driver=VARIANT)) as running:
        running.wait_not_ready()
        assert not running.ready_file.exists()
        bare_kernel.faults.fail.clear()
        bare_kernel.load_driver("nvidia")
        until(lambda: driver_of(bare_kernel, OTHER_GPU) == VARIANT)
        running.wait_ready()
        assert running.ready_file.exists()
    assert writes_for(bare_kernel, OTHER_GPU)[-3:] == ["unbind nvidia", f"bind {VARIANT}", "power/control=on"]


def test_the_ready_file_goes_when_a_device_is_taken_away_and_comes_back_with_it(kernel: FakeKernel) -> None:
    with RunningBinder(kernel.node()) as running:
        running.wait_ready()
        kernel.faults.fail[(OTHER_GPU, "bind")] = errno.EBUSY
        kernel.sysfs().unbind(OTHER_GPU, "vfio-pci", 10)
        until(lambda: not running.ready_file.exists())
        until(lambda: str(OTHER_GPU) in running.last.message)
        kernel.faults.fail.clear()
        running.wait_ready()
        assert running.ready_file.exists()
        assert driver_of(kernel, OTHER_GPU) == "vfio-pci"


def test_without_an_iommu_it_stays_up_not_ready_and_says_so_in_one_sentence(bare_kernel: FakeKernel) -> None:
    # facts/field-problems.md, row 23: no crash loop
    address = bare_kernel.add_device(gpu("0000:0a:00.0"), driver="nvidia")
    with RunningBinder(bare_kernel.node()) as running:
        running.wait_not_ready()
        assert running.last.message.startswith(f"{address}: it is in no IOMMU group")
        assert not running.last.retry
        assert not running.ready_file.exists()
    assert bare_kernel.writes == []


def test_a_ready_file_that_a_killed_agent_left_goes_when_it_is_not_true(bare_kernel: FakeKernel) -> None:
    bare_kernel.add_device(gpu("0000:0a:00.0"), driver="nvidia")
    left = bare_kernel.host.resolve(READY_FILE)
    left.parent.mkdir(parents=True)
    left.touch()
    with RunningBinder(bare_kernel.node()) as running:
        running.wait_not_ready()
        assert not left.exists()


class BrokenSysfs(Sysfs):
    """A bug of ours in the middle of a round."""

    def drivers(self) -> frozenset[str]:
        raise RuntimeError("a bug")


@pytest.mark.parametrize("kind", [Sysfs, BrokenSysfs], ids=["no /sys", "a bug"])
def test_a_round_that_fails_altogether_leaves_no_ready_file(kernel: FakeKernel, kind: type[Sysfs]) -> None:
    assert bind(kernel) == []
    without_sys = HostRoot(kernel.host.root / "proc")
    left = kernel.host.resolve(READY_FILE)
    left.parent.mkdir(parents=True)
    left.touch()
    sysfs = kind(without_sys if kind is Sysfs else kernel.host)
    with contextlib.closing(sysfs), RunningBinder(Node(kernel.host, sysfs, kernel.uevents)):
        until(lambda: not left.exists())


def test_a_restart_under_running_vms_is_ready_and_writes_nothing(bare_kernel: FakeKernel) -> None:
    # facts/field-problems.md, rows 13 and 14
    add_card(bare_kernel, on="vfio-pci", audio_on="vfio-pci")
    with bare_kernel.start_vm(GPU, AUDIO):
        for _ in range(2):
            with RunningBinder(bare_kernel.node()) as running:
                running.wait_ready()
                assert running.ready_file.exists()
        assert bare_kernel.writes == []


def test_a_device_that_a_vm_has_open_is_bound_once_the_vm_has_ended(bare_kernel: FakeKernel) -> None:
    add_card(bare_kernel, on="vfio-pci", audio_on=None)
    machine = bare_kernel.start_vm(GPU)
    with RunningBinder(bare_kernel.node(), daemon=DaemonSettings(interval_s=0.1, listen="")) as running:
        running.wait_not_ready()
        assert "end that virtual machine first" in running.last.message
        assert bare_kernel.writes == []
        machine.close()  # no event tells of that: the timer does
        running.wait_ready()
    assert driver_of(bare_kernel, AUDIO) == "vfio-pci"


def test_a_device_that_was_asked_for_and_is_not_there_yet_keeps_nothing_else_waiting(kernel: FakeKernel) -> None:
    kernel.unplug(OTHER_GPU)
    with RunningBinder(kernel.node(), Settings(only=frozenset({GPU, OTHER_GPU}))) as running:
        running.wait_not_ready()
        assert running.last.message == f"{OTHER_GPU}: there is no NVIDIA device"
        assert driver_of(kernel, GPU) == "vfio-pci"
        kernel.plug_back(OTHER_GPU)
        running.wait_ready()
    assert driver_of(kernel, OTHER_GPU) == "vfio-pci"


def test_the_metrics_count_functions_by_driver_binds_and_failures(kernel: FakeKernel) -> None:
    kernel.faults.fail[(OTHER_GPU, "power/control")] = errno.EIO
    with RunningBinder(kernel.node()) as running:
        running.wait_not_ready()
        metrics = {metric.name: dict(metric.values) for metric in running.binder.metrics()}
        assert metrics["vfio_manager_functions"] == {("vfio-pci", "idle"): 3.0}
        assert metrics["vfio_manager_binds"] == {(): 2.0}
        assert metrics["vfio_manager_failures"][("refused",)] >= 1.0
        for _ in range(3):
            running.wakeups.wake("a test")
        until(lambda: len(running.results) > 1)
        again = {metric.name: dict(metric.values) for metric in running.binder.metrics()}
        assert again["vfio_manager_binds"] == {(): 2.0}, "a counter never falls"


def test_a_wake_up_without_a_change_writes_nothing(kernel: FakeKernel) -> None:
    with RunningBinder(kernel.node()) as running:
        running.wait_ready()
        written = list(kernel.writes)
        stamp = running.ready_file.stat().st_mtime_ns
        rounds = len(running.results)
        running.wakeups.wake("a test")
        until(lambda: len(running.results) > rounds)
        assert kernel.writes == written
        assert running.ready_file.stat().st_mtime_ns == stamp


# --- the process


@contextlib.contextmanager
def process(kernel: FakeKernel, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The command itself. It meets the files of /sys without the kernel behind them."""
    command = [sys.executable, "-m", "vfio_manager", "run", "--host-root", str(kernel.host.root), *options]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as running:
        try:
            yield running
        finally:
            running.kill()


def iter_until(lines: Iterable[str], wanted: str) -> Iterator[str]:
    """*lines* up to the one that has *wanted* in it."""
    for line in lines:
        yield line
        if wanted in line:
            return


def test_the_process_ends_at_sigterm_and_takes_its_ready_file_with_it(kernel: FakeKernel) -> None:
    assert bind(kernel) == []
    ready = kernel.host.resolve(READY_FILE)
    with process(kernel) as running:
        until(ready.exists)
        running.send_signal(signal.SIGTERM)
        _, said = running.communicate(timeout=DEADLINE_S)
    assert running.returncode == 0, said
    assert "all 3 functions are on their VFIO drivers" in said
    assert "Traceback" not in said
    assert not ready.exists()
    assert driver_of(kernel, GPU) == "vfio-pci"


def test_the_process_ends_at_sigterm_although_an_unbind_hangs(bare_kernel: FakeKernel) -> None:
    # DESIGN, section 2: within 5 s, whatever it is waiting for; the deadline of the unbind is ten minutes away.
    add_other_gpu(bare_kernel)
    unbind = bare_kernel.host.root / "sys/bus/pci/drivers/nvidia/unbind"
    unbind.unlink()
    os.mkfifo(unbind)  # opening it for writing waits until somebody reads, as the kernel lets the write wait
    with process(bare_kernel, "--unbind-timeout", "600") as running:
        assert running.stderr is not None
        said = list(iter_until(running.stderr, f"unbind {OTHER_GPU} from nvidia"))
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(DEADLINE_S)
        finally:
            os.close(os.open(unbind, os.O_RDONLY | os.O_NONBLOCK))  # lets the child go that was left behind
        said += running.stderr.readlines()
    assert running.returncode == 0, said
    assert "stopping although a round still waits for the kernel" in said[-1]
