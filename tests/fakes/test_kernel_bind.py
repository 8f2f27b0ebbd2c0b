"""What the simulated kernel answers to writes that bind devices to drivers and take them away."""

import errno
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nodelib.errors import DeviceBusy, DeviceError
from nodelib.pci import PciAddress
from nodelib.sysfs import Sysfs
from tests.fakes.kernel import FakeKernel
from tests.fakes.parts import gpu, port

GPU = PciAddress.parse("0000:3b:00.0")
OTHER_GPU = PciAddress.parse("0000:86:00.0")
BIND = Path("bus/pci/drivers/vfio-pci/bind")


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[FakeKernel]:
    with FakeKernel(tmp_path) as kernel:
        kernel.add_device(gpu(str(GPU), group=65), driver="nvidia")
        kernel.add_device(gpu(str(OTHER_GPU), group=93))
        yield kernel


@pytest.fixture
def sysfs(kernel: FakeKernel) -> Sysfs:
    return kernel.sysfs()


def attribute(kernel: FakeKernel, name: str, address: PciAddress = OTHER_GPU) -> str:
    return (kernel.host.root / f"sys/bus/pci/devices/{address}" / name).read_text()


def write(kernel: FakeKernel, path: str, value: str) -> int:
    return kernel.write(kernel.host.root / "sys" / path, value)


def bind_to_vfio(sysfs: Sysfs, address: PciAddress = OTHER_GPU) -> None:
    sysfs.set_driver_override(address, "vfio-pci")
    sysfs.bind(address, "vfio-pci")


# --- driver_override


def test_an_override_reads_back_without_its_newline_and_null_when_lifted(kernel: FakeKernel, sysfs: Sysfs) -> None:
    # drivers/base/driver.c, driver_set_override
    sysfs.set_driver_override(OTHER_GPU, "vfio-pci")
    assert attribute(kernel, "driver_override") == "vfio-pci\n"
    sysfs.set_driver_override(OTHER_GPU, None)
    assert attribute(kernel, "driver_override") == "(null)\n"


def test_a_write_of_no_bytes_lifts_no_override(kernel: FakeKernel, sysfs: Sysfs) -> None:
    # fs/sysfs/file.c, sysfs_kf_write: it never reaches the attribute; a newline is what lifts it
    sysfs.set_driver_override(OTHER_GPU, "vfio-pci")
    assert write(kernel, f"bus/pci/devices/{OTHER_GPU}/driver_override", "") == 0
    assert attribute(kernel, "driver_override") == "vfio-pci\n"


def test_an_override_longer_than_a_page_is_einval(kernel: FakeKernel) -> None:
    # drivers/base/driver.c, driver_set_override
    assert write(kernel, f"bus/pci/devices/{OTHER_GPU}/driver_override", "x" * 4095) == errno.EINVAL


# --- bind


def test_a_bind_without_an_override_is_enodev(kernel: FakeKernel, sysfs: Sysfs) -> None:
    # drivers/base/bus.c, bind_store; facts/kubelet-cdi-kata-contract.md, "VFIO device nodes"
    with pytest.raises(DeviceError, match="No such device"):
        sysfs.bind(OTHER_GPU, "vfio-pci")
    assert sysfs.pci_device(OTHER_GPU).driver is None


@pytest.mark.parametrize("override", ["vfio_pci", "vfio-pci-other", "nvidia"])
def test_a_bind_with_another_override_is_enodev(sysfs: Sysfs, override: str) -> None:
    # drivers/pci/pci-driver.c, pci_match_device: strcmp, so the module's spelling does not match the driver
    sysfs.set_driver_override(OTHER_GPU, override)
    with pytest.raises(DeviceError, match="No such device"):
        sysfs.bind(OTHER_GPU, "vfio-pci")


def test_an_override_keeps_every_other_driver_away(sysfs: Sysfs) -> None:
    # drivers/pci/pci-driver.c, pci_match_device
    sysfs.set_driver_override(OTHER_GPU, "vfio-pci")
    with pytest.raises(DeviceError, match="No such device"):
        sysfs.bind(OTHER_GPU, "nvidia")


def test_a_driver_takes_what_is_in_its_id_table_without_an_override(sysfs: Sysfs) -> None:
    sysfs.bind(OTHER_GPU, "nvidia")
    assert sysfs.pci_device(OTHER_GPU).driver == "nvidia"


def test_a_bind_of_a_bound_device_is_ebusy(sysfs: Sysfs) -> None:
    # drivers/base/dd.c, __driver_probe_device
    sysfs.set_driver_override(GPU, "vfio-pci")
    with pytest.raises(DeviceBusy):
        sysfs.bind(GPU, "vfio-pci")
    assert sysfs.pci_device(GPU).driver == "nvidia"


@pytest.mark.parametrize("name", ["0000:ff:00.0", "3b:00.0", "0000:3B:00.0", ""])
def test_a_bind_of_a_name_that_is_no_device_is_enodev(kernel: FakeKernel, name: str) -> None:
    # drivers/base/bus.c, bind_store: the whole name, as sysfs spells it
    assert write(kernel, str(BIND), f"{name}\n") == errno.ENODEV


def test_a_bind_to_a_driver_that_is_not_loaded_is_enoent(kernel: FakeKernel) -> None:
    assert write(kernel, "bus/pci/drivers/nouveau/bind", str(OTHER_GPU)) == errno.ENOENT


def test_vfio_without_an_iommu_is_einval(kernel: FakeKernel, sysfs: Sysfs) -> None:
    # drivers/vfio/group.c, vfio_group_find_or_alloc; facts/fsp-and-cc-mode.md, section 7
    address = kernel.add_device(gpu("0000:0a:00.0"))
    with pytest.raises(DeviceError, match="EINVAL"):
        bind_to_vfio(sysfs, address)
    device = sysfs.pci_device(address)
    assert (device.driver, device.has_vfio_dev) == (None, False)


def test_vfio_of_a_function_with_virtual_functions_is_ebusy(kernel: FakeKernel, sysfs: Sysfs) -> None:
    # drivers/vfio/pci/vfio_pci_core.c, vfio_pci_core_register_device
    address = kernel.add_device(replace(gpu("0000:0a:00.0", group=3), vf_count=2))
    with pytest.raises(DeviceBusy):
        bind_to_vfio(sysfs, address)


def test_vfio_of_a_port_is_einval(kernel: FakeKernel, sysfs: Sysfs) -> None:
    # drivers/vfio/pci/vfio_pci_core.c, vfio_pci_core_register_device
    address = kernel.add_device(replace(port("0000:02:00.0"), iommu_group=2))
    with pytest.raises(DeviceError, match="EINVAL"):
        bind_to_vfio(sysfs, address)


def test_an_id_added_to_a_driver_lets_it_take_what_is_unbound(kernel: FakeKernel, sysfs: Sysfs) -> None:
    # drivers/pci/pci-driver.c, new_id_store and remove_id_store
    assert write(kernel, "bus/pci/drivers/vfio-pci/new_id", "10de 2330\n") == 0
    assert sysfs.pci_device(OTHER_GPU).driver == "vfio-pci"
    assert sysfs.pci_device(GPU).driver == "nvidia"
    assert write(kernel, "bus/pci/drivers/vfio-pci/new_id", "10de 2330\n") == errno.EEXIST
    assert write(kernel, "bus/pci/drivers/vfio-pci/new_id", "10de\n") == errno.EINVAL
    assert write(kernel, "bus/pci/drivers/vfio-pci/remove_id", "10de 2330\n") == 0
    assert write(kernel, "bus/pci/drivers/vfio-pci/remove_id", "10de 2330\n") == errno.ENODEV


# --- drivers_probe


def test_a_probe_succeeds_though_the_driver_refuses(kernel: FakeKernel, sysfs: Sysfs) -> None:
    # drivers/base/dd.c, call_driver_probe; facts/kubelet-cdi-kata-contract.md, "VFIO device nodes"
    address = kernel.add_device(gpu("0000:0a:00.0"))
    sysfs.set_driver_override(address, "vfio-pci")
    sysfs.probe(address)
    assert sysfs.pci_device(address).driver is None


def test_a_probe_of_a_missing_device_is_enodev(kernel: FakeKernel) -> None:
    # drivers/base/bus.c, drivers_probe_store
    assert write(kernel, "bus/pci/drivers_probe", "0000:ff:00.0") == errno.ENODEV


def test_a_probe_binds_by_override_or_else_by_id(sysfs: Sysfs) -> None:
    sysfs.probe(OTHER_GPU)
    assert sysfs.pci_device(OTHER_GPU).driver == "nvidia"
    sysfs.set_driver_override(OTHER_GPU, "vfio-pci")
    sysfs.unbind(OTHER_GPU, "nvidia", 10)
    sysfs.probe(OTHER_GPU)
    assert sysfs.pci_device(OTHER_GPU).driver == "vfio-pci"


def test_a_driver_that_is_loaded_late_takes_what_nobody_has_but_for_an_override(
    kernel: FakeKernel, sysfs: Sysfs
) -> None:
    # drivers/base/dd.c, driver_attach
    address = kernel.add_device(gpu("0000:0a:00.0", group=3))
    sysfs.set_driver_override(OTHER_GPU, "vfio-pci")
    kernel.load_driver("nouveau")
    assert sysfs.pci_device(address).driver == "nouveau"
    assert sysfs.pci_device(OTHER_GPU).driver is None
    assert sysfs.pci_device(GPU).driver == "nvidia"


# --- unbind and what a driver changes


def test_an_unbind_by_a_driver_that_does_not_hold_the_device_is_enodev(sysfs: Sysfs) -> None:
    # drivers/base/bus.c, unbind_store
    with pytest.raises(DeviceError, match="No such device"):
        sysfs.unbind(GPU, "vfio-pci", 10)
    assert sysfs.pci_device(GPU).driver == "nvidia"


def test_enable_is_one_on_a_usual_driver_and_zero_on_vfio_and_without(sysfs: Sysfs) -> None:
    # facts/kubelet-cdi-kata-contract.md, "VFIO device nodes"
    assert sysfs.pci_device(GPU).enable == 1
    sysfs.set_driver_override(GPU, "vfio-pci")
    sysfs.unbind(GPU, "nvidia", 10)
    assert sysfs.pci_device(GPU).enable == 0
    sysfs.bind(GPU, "vfio-pci")
    assert sysfs.pci_device(GPU).enable == 0


def test_a_bind_to_vfio_puts_the_idle_device_to_sleep_whatever_was_set_before(sysfs: Sysfs) -> None:
    # drivers/vfio/pci/vfio_pci_core.c; facts/kubelet-cdi-kata-contract.md, "VFIO device nodes"
    sysfs.keep_awake(OTHER_GPU)
    bind_to_vfio(sysfs)
    device = sysfs.pci_device(OTHER_GPU)
    assert (device.power_control, device.power_state) == ("auto", "D3hot")
    sysfs.keep_awake(OTHER_GPU)
    device = sysfs.pci_device(OTHER_GPU)
    assert (device.power_control, device.power_state) == ("on", "D0")
    sysfs.unbind(OTHER_GPU, "vfio-pci", 10)
    assert sysfs.pci_device(OTHER_GPU).power_state == "D0"


def test_a_device_whose_power_is_cut_in_sleep_goes_to_d3cold_unless_that_is_forbidden(
    kernel: FakeKernel, sysfs: Sysfs
) -> None:
    # Documentation/ABI/testing/sysfs-bus-pci, d3cold_allowed; facts/field-problems.md, row 20
    address = kernel.add_device(replace(gpu("0000:0a:00.0", group=3), sleeps_cold=True))
    bind_to_vfio(sysfs, address)
    assert sysfs.pci_device(address).power_state == "D3cold"
    sysfs.set_d3cold_allowed(address, allowed=False)
    assert sysfs.pci_device(address).power_state == "D3hot"


def test_power_control_takes_on_and_auto_only(kernel: FakeKernel) -> None:
    # drivers/base/power/sysfs.c, control_store
    assert write(kernel, f"bus/pci/devices/{GPU}/power/control", "off") == errno.EINVAL


def test_a_write_to_enable_is_ebusy_under_a_driver_and_is_held_against_the_writer(kernel: FakeKernel) -> None:
    # drivers/pci/pci-sysfs.c, enable_store; DESIGN, section 2: nobody writes it
    assert write(kernel, f"bus/pci/devices/{GPU}/enable", "0") == errno.EBUSY
    assert write(kernel, f"bus/pci/devices/{OTHER_GPU}/enable", "0") == errno.EIO
    assert write(kernel, f"bus/pci/devices/{OTHER_GPU}/enable", "1") == 0
    assert attribute(kernel, "enable") == "1\n"
    assert len(kernel.complaints) == 3
