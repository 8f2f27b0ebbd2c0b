"""Every simulated node, seen by the real scan: the devices, groups and drivers that it is there for."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from nodelib.health import node_problems
from nodelib.inventory import Inventory
from nodelib.nvidia import Kind, chip_of, kind_of
from nodelib.pci import PciAddress
from nodelib.scan import scan
from nodelib.vfio import Naming, assignable_devices, without_group
from tests.fakes.kernel import FakeKernel
from tests.fakes.topologies import TOPOLOGIES, Drivers, build

ON_VFIO = Drivers(gpu="vfio-pci", nvswitch="vfio-pci")
Look = Callable[[str, Drivers], Inventory]


@pytest.fixture
def look(tmp_path: Path) -> Iterator[Look]:
    with ExitStack() as kernels:

        def look(name: str, drivers: Drivers) -> Inventory:
            kernel = kernels.enter_context(build(name, tmp_path, drivers=drivers))
            return scan(kernel.sysfs(), kernel.host)

        yield look


@pytest.mark.parametrize("name", [*TOPOLOGIES, "scale-16"])
def test_a_scan_of_any_node_finds_no_fault(look: Look, name: str) -> None:
    inventory = look(name, Drivers())
    assert inventory.gpus
    assert inventory.faults == ()
    assert all(chip_of(gpu) is not None for gpu in inventory.gpus if name != "workstation")


def test_dgx_h100_has_8_gpus_and_4_switches_on_two_numa_nodes_each_in_its_own_group(look: Look) -> None:
    inventory = look("dgx-h100", Drivers())
    assert [f"{gpu.address.bus:02x}" for gpu in inventory.gpus] == ["1b", "43", "52", "61", "9d", "c3", "d1", "df"]
    assert {gpu.device for gpu in inventory.gpus} == {0x2330}
    assert [gpu.numa_node for gpu in inventory.gpus] == [0] * 4 + [1] * 4
    assert {gpu.driver for gpu in inventory.gpus} == {"nvidia"}
    assert {(switch.device, switch.driver) for switch in inventory.nvswitches} == {(0x22A3, None)}
    assert len(inventory.devices) == len(inventory.groups) == 12
    assert len(inventory.group_numbers) > 12  # ports and network cards have groups too


def test_dgx_h100_on_vfio_offers_12_healthy_devices(look: Look) -> None:
    devices = assignable_devices(look("dgx-h100", ON_VFIO), Naming())
    assert [str(device.resource) for device in devices].count("nvidia.com/pgpu") == 8
    assert [str(device.resource) for device in devices].count("nvidia.com/nvswitch") == 4
    assert all(device.is_healthy for device in devices)


def test_a_gpu_of_dgx_h100_shares_a_switch_with_a_network_card(tmp_path: Path) -> None:
    with build("dgx-h100", tmp_path) as kernel:
        gpu = (kernel.host.root / "sys/bus/pci/devices/0000:1b:00.0").resolve()
        card = (kernel.host.root / "sys/bus/pci/devices/0000:18:00.0").resolve()
        assert gpu.parents[1] == card.parents[1]
        assert gpu.parents[3].name == "pci0000:15"
        assert (card / "driver").readlink().name == "mlx5_core"


def test_hgx_b200_has_8_blackwell_gpus_and_no_switches(look: Look) -> None:
    inventory = look("hgx-b200", Drivers())
    assert ([gpu.device for gpu in inventory.gpus], inventory.nvswitches) == ([0x2901] * 8, ())


def test_gh200_can_be_bound_to_its_own_vfio_driver(tmp_path: Path) -> None:
    with build("gh200", tmp_path, drivers=Drivers(gpu=None)) as kernel:
        sysfs = kernel.sysfs()
        (gpu,) = scan(sysfs, kernel.host).gpus
        sysfs.set_driver_override(gpu.address, "nvgrace_gpu_vfio_pci")
        sysfs.bind(gpu.address, "nvgrace_gpu_vfio_pci")
        assert sysfs.pci_device(gpu.address).is_on_vfio_driver
        aliases = (kernel.host.root / "lib/modules/6.12/modules.alias").read_text()
        assert "alias vfio_pci:v000010DEd00002342sv*sd*bc*sc*i* nvgrace_gpu_vfio_pci\n" in aliases


def test_workstation_has_one_group_of_card_companions_and_port(look: Look) -> None:
    inventory = look("workstation", Drivers())
    (group,) = inventory.groups
    kinds = [kind_of(device) for device in inventory.members_of(group)]
    assert kinds == [Kind.BRIDGE, Kind.GPU, Kind.COMPANION, Kind.COMPANION, Kind.COMPANION]
    drivers = [device.driver for device in inventory.members_of(group)]
    assert drivers == ["pcieport", "nvidia", "snd_hda_intel", "xhci_hcd", "nvidia-gpu"]
    (device,) = assignable_devices(inventory, Naming())
    assert len(device.problems) == 4


def test_shared_group_is_one_device_with_two_gpus(look: Look) -> None:
    (device,) = assignable_devices(look("shared-group", ON_VFIO), Naming())
    assert (device.id, len(device.functions), device.is_healthy) == ("12", 2, True)


def test_mixed_has_two_models(look: Look) -> None:
    devices = assignable_devices(look("mixed", ON_VFIO), Naming(gpu_alias=""))
    names = {str(device.resource) for device in devices}
    assert names == {"nvidia.com/GH100_H100_PCIE", "nvidia.com/GB202GL_RTX_PRO_6000_BLACKWELL_SERVER_EDITION"}


def test_h200_vm_has_one_gpu_on_nvidia_without_an_iommu(look: Look) -> None:
    inventory = look("h200-vm", ON_VFIO)
    (gpu,) = inventory.devices
    assert (gpu.device, gpu.driver, gpu.iommu_group, gpu.power_control) == (0x2335, "nvidia", None, None)
    assert assignable_devices(inventory, Naming()) == ()
    assert [device.address for device, _ in without_group(inventory)] == [gpu.address]


def test_scale_has_as_many_functions_as_asked_for_an_eighth_of_them_gpus(tmp_path: Path) -> None:
    with build("scale-40", tmp_path) as kernel:
        assert len(kernel.addresses) == 40
        assert len(scan(kernel.sysfs(), kernel.host).gpus) == 5


@pytest.mark.parametrize("name", ["dgx", "scale-", "scale-many"])
def test_a_node_that_is_not_known_is_refused_with_those_that_are(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="dgx-h100"):
        build(name, tmp_path)


def test_with_cdevs_every_bound_device_has_its_own(tmp_path: Path) -> None:
    with build("workstation", tmp_path, drivers=ON_VFIO, vfio_cdevs=True) as kernel:
        inventory = scan(kernel.sysfs(), kernel.host)
        gpu = inventory.by_address[PciAddress.parse("0000:01:00.0")]
        assert gpu.vfio_cdev == "vfio0"
        assert node_problems(1, [gpu], inventory, cdevs=True) == []


def test_nvidia_takes_the_gpus_that_nobody_has_when_it_is_loaded(tmp_path: Path) -> None:
    with build("mixed", tmp_path, drivers=Drivers(gpu=None)) as kernel:
        kernel.load_module("nvidia")
        assert {gpu.driver for gpu in scan(kernel.sysfs(), kernel.host).gpus} == {"nvidia"}


def test_a_module_that_does_not_exist_cannot_be_loaded(tmp_path: Path) -> None:
    with FakeKernel(tmp_path) as kernel, pytest.raises(FileNotFoundError):
        kernel.load_module("nvidai")
