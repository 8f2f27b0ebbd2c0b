"""The plugin on the simulated kernel: whole nodes by name, and what the kernel's own events do to health."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from device_plugin.cli import cli
from device_plugin.settings import KUBELET_SOCKET, CdiMode, Settings, WhenHeld
from nodelib.cli import run_command
from nodelib.pci import PciAddress
from tests.device_plugin.small_node import NVSWITCH, PGPU, QUIET, RunningPlugin
from tests.fakes.kernel import FakeKernel
from tests.fakes.kubelet import Kubelet
from tests.fakes.topologies import Drivers, build

VFIO = Drivers("vfio-pci", "vfio-pci")
GPU = "0000:17:00.0"
"""The first of the four in `mixed`, the smallest node that has all that these tests need."""
Start = Callable[..., FakeKernel]


@pytest.fixture
def start(short_path: Path) -> Iterator[Start]:
    """Builds the named topology, all of NVIDIA's devices on vfio-pci unless said otherwise."""
    built: list[FakeKernel] = []

    def start_kernel(name: str, *, drivers: Drivers = VFIO, vfio_cdevs: bool = False) -> FakeKernel:
        built.append(build(name, short_path, drivers=drivers, vfio_cdevs=vfio_cdevs))
        return built[0]

    yield start_kernel
    for kernel in built:
        kernel.close()


@pytest.fixture
def kubelet(short_path: Path) -> Iterator[Kubelet]:
    with Kubelet(short_path / Path(KUBELET_SOCKET).parent.relative_to("/"), short_path / "pods") as running:
        yield running
        assert running.complaints == []


def group_of(kernel: FakeKernel, address: str) -> str:
    group = kernel.sysfs().pci_device(PciAddress.parse(address)).iommu_group
    assert group is not None
    return str(group)


@pytest.mark.parametrize(
    ("name", "capacity"),
    [
        ("dgx-h100", {NVSWITCH: (4, 4), PGPU: (8, 8)}),
        ("hgx-b200", {PGPU: (8, 8)}),
        ("gh200", {PGPU: (1, 1)}),
        ("shared-group", {PGPU: (1, 1)}),
        ("mixed", {PGPU: (4, 4)}),
        ("scale-16", {PGPU: (2, 2)}),
        ("workstation", {PGPU: (1, 0)}),  # its audio, USB and UCSI functions are on host drivers
        ("h200-vm", {}),  # no IOMMU
    ],
)
def test_each_node_advertises_what_it_can_give_away(
    name: str, capacity: dict[str, tuple[int, int]], start: Start, kubelet: Kubelet
) -> None:
    with RunningPlugin(start(name).node()) as running:
        running.wait_ready()
        kubelet.wait_until(
            lambda: {r: (kubelet.capacity(r), kubelet.allocatable(r)) for r in kubelet.resource_names} == capacity
        )


def test_an_unbound_node_advertises_its_gpus_as_they_are_bound(start: Start, kubelet: Kubelet) -> None:
    kernel = start("mixed", drivers=Drivers("nvidia", None))
    node = kernel.node()
    with RunningPlugin(node):
        kubelet.wait_until(lambda: (kubelet.capacity(PGPU), kubelet.allocatable(PGPU)) == (4, 0))
        address = PciAddress.parse(GPU)
        node.sysfs.set_driver_override(address, "vfio-pci")
        node.sysfs.unbind(address, "nvidia", 10)
        node.sysfs.bind(address, "vfio-pci")
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 1)
        node.sysfs.unbind(address, "vfio-pci", 10)
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 0)
        assert kubelet.capacity(PGPU) == 4


def test_a_gpu_pulled_out_and_put_back_is_noticed_both_ways(start: Start, kubelet: Kubelet) -> None:
    kernel = start("mixed")
    with RunningPlugin(kernel.node()):
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 4)
        kernel.unplug(GPU)
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 3)
        assert kubelet.capacity(PGPU) == 4
        kernel.plug_back(GPU)
        node = kernel.sysfs()
        node.set_driver_override(PciAddress.parse(GPU), "vfio-pci")
        kernel_driver = node.pci_device(PciAddress.parse(GPU)).driver
        if kernel_driver:
            node.unbind(PciAddress.parse(GPU), kernel_driver, 10)
        node.bind(PciAddress.parse(GPU), "vfio-pci")
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 4)


def test_a_gpu_that_falls_off_the_bus_without_a_word_is_found_by_the_timer(start: Start, kubelet: Kubelet) -> None:
    kernel = start("mixed")
    with RunningPlugin(kernel.node(), Settings(cdi=CdiMode.OFF, health_interval_s=0.1)):
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 4)
        kernel.fall_off_bus(GPU)
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 3)


def test_a_pod_gets_cdevs_where_the_kernel_has_them_and_its_virtual_machine_can_open_them(
    start: Start, kubelet: Kubelet
) -> None:
    """Row 9: never both backends."""
    kernel = start("mixed", vfio_cdevs=True)
    with RunningPlugin(kernel.node()):
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 4)
        pod = kubelet.admit_pod("tenant", requests={PGPU: 4})
        paths = [spec.host_path for spec in pod.device_specs]
        assert len(paths) == 4
        assert all(path.startswith("/dev/vfio/devices/vfio") for path in paths)
        assert all((kernel.host.root / path.removeprefix("/")).exists() for path in paths)


def test_a_running_virtual_machine_shrinks_nothing_and_its_gpu_is_waited_for(start: Start, kubelet: Kubelet) -> None:
    """Rows 4 and 5, with the kernel's own account of who has what open."""
    kernel = start("mixed")
    machine = kernel.start_vm(GPU)
    failing = Settings(cdi=CdiMode.OFF, health_interval_s=60.0, busy_wait_s=30.0, when_held=WhenHeld.FAIL)
    with RunningPlugin(kernel.node(), failing):
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 4)
        others = kubelet.admit_pod("others", requests={PGPU: 3})
        assert group_of(kernel, GPU) not in others.device_ids(PGPU)
        admitting = threading.Thread(target=lambda: kubelet.admit_pod("next", requests={PGPU: 1}))
        admitting.start()
        machine.close()
        kubelet.wait_until(lambda: len(kubelet.pods) == 2)
        admitting.join(10)


def test_two_gpus_come_from_one_numa_node(start: Start, kubelet: Kubelet) -> None:
    kernel = start("mixed")
    with RunningPlugin(kernel.node()):
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 4)
        pod = kubelet.admit_pod("tenant", requests={PGPU: 2})
        (resource,) = pod.resources
        assert len({device.numa_nodes for device in resource.devices}) == 1


def test_nothing_is_written_to_the_kernel(start: Start, kubelet: Kubelet) -> None:
    kernel = start("mixed")
    with RunningPlugin(kernel.node(), QUIET):
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 4)
        kubelet.admit_pod("tenant", requests={PGPU: 4})
    assert (kernel.writes, kernel.complaints) == ([], [])


def test_the_table_of_a_large_node_fits_a_terminal(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    kernel = start("dgx-h100", drivers=Drivers("nvidia", None))
    for options in ([], ["--gpu-alias", "", "--nvswitch-alias", ""]):
        assert run_command(cli, ["list", *options], obj=kernel.node()) == 0
        assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= 80


def test_the_captured_machine_says_why_its_gpu_cannot_be_had(start: Start, capsys: pytest.CaptureFixture[str]) -> None:
    kernel = start("h200-vm")
    assert run_command(cli, ["list"], obj=kernel.node()) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "H200 SXM 141GB" in said
    assert ": left out: " in said
    assert "virtual IOMMU" in said
