"""Somebody has a GPU open: named before anything is tried, and bound as soon as it is free. Field problem 15."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest

from nodelib.cli import run_command
from nodelib.held import HeldBy
from nodelib.node import Node
from nodelib.pci import PciAddress, PciDevice
from tests.fakes.kernel import FakeKernel
from tests.vfio_manager.builders import GPU, OTHER_GPU, driver_of, writes_for
from vfio_manager.cli import cli
from vfio_manager.reconcile import Binder
from vfio_manager.settings import Settings

PID = 815
HELD = "it is held by nvidia-persiste (pid 815), and its driver would wait for that; end the process first"


@contextmanager
def persistence_daemon(kernel: FakeKernel) -> Iterator[None]:
    """It has the first GPU's node open, so that nvidia's unbind would wait for it."""
    kernel.processes.show_nvidia_gpu(str(GPU), 0)
    with kernel.in_use(GPU, pid=PID, command="nvidia-persiste"):
        try:
            kernel.processes.hold(PID, "/dev/nvidia0")
        except PermissionError:
            pytest.skip("no device node can be made here (CAP_MKNOD)")
        yield


def test_a_gpu_that_a_daemon_holds_is_left_alone_and_the_daemon_named(kernel: FakeKernel) -> None:
    with persistence_daemon(kernel):
        outcome = Binder(kernel.node(), Settings()).bind()
        assert [str(refusal) for refusal in outcome.refusals if refusal.address == GPU] == [f"{GPU}: {HELD}"]
        assert writes_for(kernel, GPU) == []
        assert driver_of(kernel, GPU) == "nvidia"
        assert driver_of(kernel, OTHER_GPU) == "vfio-pci"


def test_it_is_bound_in_the_next_round_after_the_daemon_ended(kernel: FakeKernel) -> None:
    binder = Binder(kernel.node(), Settings())
    with persistence_daemon(kernel):
        assert not binder.round().ready
    assert binder.round().ready
    assert driver_of(kernel, GPU) == "vfio-pci"


def test_status_and_plan_name_who_holds_it(kernel: FakeKernel, capsys: pytest.CaptureFixture[str]) -> None:
    with persistence_daemon(kernel):
        for verb in ("status", "plan"):
            assert run_command(cli, [verb], obj=kernel.node()) == 0
            assert HELD in " ".join(capsys.readouterr().out.split())


class NodeWithoutProcesses(Node):
    """A node on which nobody may ask who holds a device."""

    def holders(self, devices: Iterable[PciDevice]) -> dict[PciAddress, HeldBy]:
        raise AssertionError(f"asked for the holders of {list(devices)}")


def test_a_quiet_round_walks_through_no_processes(kernel: FakeKernel) -> None:
    node = kernel.node()
    assert Binder(node, Settings()).round().ready
    with kernel.start_vm(GPU):
        quiet = Binder(NodeWithoutProcesses(node.host, node.sysfs, node.events, node.modprobe), Settings())
        assert quiet.round().ready
