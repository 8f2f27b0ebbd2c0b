"""VFIO nodes of the simulated kernel: when they are there, and what opening them does and is refused."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodelib.errors import DeviceBusy
from nodelib.pci import PciAddress
from nodelib.scan import scan
from tests.fakes.gpu import Chip, EmulatedDevice
from tests.fakes.kernel import FakeKernel
from tests.fakes.parts import CLASS_AUDIO, gpu, other

GPU = PciAddress.parse("0000:3b:00.0")
AUDIO = PciAddress.parse("0000:3b:00.1")
OTHER_GPU = PciAddress.parse("0000:86:00.0")


def fill(kernel: FakeKernel, driver: str | None = "vfio-pci") -> FakeKernel:
    kernel.add_device(gpu(str(GPU), group=65), driver=driver)
    kernel.add_device(other(str(AUDIO), 0x10DE, 0x10F7, CLASS_AUDIO, group=65), driver="vfio-pci")
    kernel.add_device(gpu(str(OTHER_GPU), group=93), driver="vfio-pci")
    return kernel


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[FakeKernel]:
    with FakeKernel(tmp_path) as kernel:
        yield fill(kernel)


@pytest.fixture
def cdev_kernel(tmp_path: Path) -> Iterator[FakeKernel]:
    with FakeKernel(tmp_path, vfio_cdevs=True) as kernel:
        yield fill(kernel)


def names(kernel: FakeKernel, folder: str) -> set[str]:
    return {path.name for path in (kernel.host.root / folder).iterdir()}


def test_a_groups_node_is_there_while_any_member_is_on_vfio(kernel: FakeKernel) -> None:
    # drivers/vfio/group.c, vfio_group_find_or_alloc and vfio_device_remove_group
    sysfs = kernel.sysfs()
    assert sysfs.vfio_group_nodes() == {65, 93}
    sysfs.unbind(GPU, "vfio-pci", 10)
    assert sysfs.vfio_group_nodes() == {65, 93}
    sysfs.unbind(AUDIO, "vfio-pci", 10)
    assert sysfs.vfio_group_nodes() == {93}
    assert names(kernel, "dev/vfio") == {"vfio", "93", "devices"}


def test_a_bound_device_has_a_vfio_folder_but_no_cdev_where_the_kernel_has_none(kernel: FakeKernel) -> None:
    # facts/kubelet-cdi-kata-contract.md, "VFIO device nodes"
    device = kernel.sysfs().pci_device(GPU)
    assert (device.has_vfio_dev, device.vfio_cdev) == (True, None)
    assert names(kernel, "sys/class/vfio-dev") == {"vfio0", "vfio1", "vfio2"}
    assert names(kernel, "dev/vfio/devices") == set()
    assert not (kernel.host.root / "dev/iommu").exists()


def test_a_bound_device_has_a_cdev_where_the_kernel_has_them(cdev_kernel: FakeKernel) -> None:
    inventory = scan(cdev_kernel.sysfs(), cdev_kernel.host)
    assert {device.vfio_cdev for device in inventory.devices} == {"vfio0", "vfio1", "vfio2"}
    assert inventory.dev_vfio == frozenset(
        {"vfio", "devices", "65", "93", "devices/vfio0", "devices/vfio1", "devices/vfio2"}
    )
    assert (cdev_kernel.host.root / "dev/iommu").exists()


def test_before_linux_6_1_there_is_no_vfio_folder(tmp_path: Path) -> None:
    # facts/kubelet-cdi-kata-contract.md, "VFIO device nodes"
    with FakeKernel(tmp_path, release="5.15") as kernel:
        device = fill(kernel).sysfs().pci_device(GPU)
        assert (device.driver, device.has_vfio_dev) == ("vfio-pci", False)
        assert device.is_on_vfio_driver


def test_a_kernel_without_legacy_groups_makes_none(tmp_path: Path) -> None:
    # CONFIG_VFIO_GROUP
    with FakeKernel(tmp_path, vfio_groups=False, vfio_cdevs=True) as kernel:
        assert fill(kernel).sysfs().vfio_group_nodes() == frozenset()
        assert names(kernel, "dev/vfio") == {"devices"}
        with pytest.raises(FileNotFoundError):
            kernel.vfio_open_group(65)


def test_a_cdevs_number_passes_to_another_device(cdev_kernel: FakeKernel) -> None:
    # drivers/vfio/vfio_main.c, vfio_init_device: ida_alloc gives the lowest free number
    sysfs = cdev_kernel.sysfs()
    assert (sysfs.pci_device(GPU).vfio_cdev, sysfs.pci_device(OTHER_GPU).vfio_cdev) == ("vfio0", "vfio2")
    for address in (GPU, OTHER_GPU):
        sysfs.set_driver_override(address, "vfio-pci")
        sysfs.unbind(address, "vfio-pci", 10)
    sysfs.bind(OTHER_GPU, "vfio-pci")
    sysfs.bind(GPU, "vfio-pci")
    assert (sysfs.pci_device(GPU).vfio_cdev, sysfs.pci_device(OTHER_GPU).vfio_cdev) == ("vfio2", "vfio0")


def test_without_an_iommu_an_unsafe_group_is_made_on_request(tmp_path: Path) -> None:
    # drivers/vfio/group.c, vfio_noiommu_group_alloc; DESIGN, section 3: such a group is never viable
    with FakeKernel(tmp_path) as kernel:
        kernel.set_module_parameter("vfio", "enable_unsafe_noiommu_mode", "Y")
        address = kernel.add_device(gpu(str(GPU)), driver="vfio-pci")
        sysfs = kernel.sysfs()
        assert sysfs.pci_device(address).iommu_group == 0
        assert sysfs.iommu_group(0).is_noiommu
        assert "noiommu-0" in names(kernel, "dev/vfio")
        sysfs.unbind(address, "vfio-pci", 10)
        assert sysfs.pci_device(address).iommu_group is None


# --- groups


def test_the_second_open_of_a_group_is_ebusy(kernel: FakeKernel) -> None:
    # drivers/vfio/group.c, vfio_group_fops_open; facts/kubelet-cdi-kata-contract.md
    first = kernel.vfio_open_group(65)
    with pytest.raises(OSError, match="busy") as refused:
        kernel.vfio_open_group(65)
    assert refused.value.errno == errno.EBUSY
    first.close()
    kernel.vfio_open_group(65).close()


def test_a_group_stays_open_until_its_device_is_closed(kernel: FakeKernel) -> None:
    # drivers/vfio/group.c, vfio_group_fops_release: device files hold a reference
    group = kernel.vfio_open_group(65)
    group.set_container()
    device = group.open_device(GPU)
    group.close()
    with pytest.raises(OSError, match="busy"):
        kernel.vfio_open_group(65)
    device.close()
    kernel.vfio_open_group(65).close()


def test_a_group_with_a_member_on_a_host_driver_opens_but_cannot_be_claimed(tmp_path: Path) -> None:
    # drivers/iommu/iommu.c, iommu_group_claim_dma_owner; Documentation/driver-api/vfio.rst
    with FakeKernel(tmp_path) as kernel:
        group = fill(kernel, driver="nvidia").vfio_open_group(65)
        assert not group.is_viable
        with pytest.raises(OSError, match="not viable") as refused:
            group.set_container()
        assert refused.value.errno == errno.EPERM
        group.close()


def test_a_device_needs_a_container_and_must_be_in_the_group(kernel: FakeKernel) -> None:
    # drivers/vfio/group.c, vfio_group_ioctl_get_device_fd
    group = kernel.vfio_open_group(65)
    with pytest.raises(OSError, match="Invalid argument"):
        group.open_device(GPU)
    group.set_container()
    with pytest.raises(OSError, match="No such device"):
        group.open_device(OTHER_GPU)
    group.close()


def test_a_host_driver_cannot_take_a_member_of_a_group_that_a_vm_owns(kernel: FakeKernel) -> None:
    # drivers/iommu/iommu.c, iommu_device_use_default_domain
    sysfs = kernel.sysfs()
    sysfs.unbind(AUDIO, "vfio-pci", 10)
    kernel.load_driver("snd_hda_intel")
    sysfs.unbind(AUDIO, "snd_hda_intel", 10)
    with kernel.start_vm(GPU), pytest.raises(DeviceBusy):
        sysfs.bind(AUDIO, "snd_hda_intel")
    sysfs.bind(AUDIO, "snd_hda_intel")


# --- use


def test_enable_follows_opens_of_the_device_not_of_the_group(kernel: FakeKernel) -> None:
    # facts/kubelet-cdi-kata-contract.md, "VFIO device nodes" (seen on Linux 6.12)
    sysfs = kernel.sysfs()
    group = kernel.vfio_open_group(65)
    group.set_container()
    assert sysfs.pci_device(GPU).enable == 0
    first, second = group.open_device(GPU), group.open_device(GPU)
    assert sysfs.pci_device(GPU).enable == 1
    first.close()
    assert sysfs.pci_device(GPU).enable == 1
    second.close()
    assert sysfs.pci_device(GPU).enable == 0
    group.close()


def test_opening_and_closing_a_device_resets_it(kernel: FakeKernel) -> None:
    # drivers/vfio/pci/vfio_pci_core.c, vfio_pci_core_enable and vfio_pci_core_disable
    device = EmulatedDevice(Chip.GH100)
    kernel.attach(GPU, device)
    machine = kernel.start_vm(GPU, AUDIO)
    assert device.resets == 1
    machine.close()
    assert device.resets == 2


def test_opening_a_device_wakes_it_and_closing_lets_it_sleep(kernel: FakeKernel) -> None:
    sysfs = kernel.sysfs()
    assert sysfs.pci_device(GPU).power_state == "D3hot"
    with kernel.start_vm(GPU):
        assert sysfs.pci_device(GPU).power_state == "D0"
    assert sysfs.pci_device(GPU).power_state == "D3hot"


def test_a_cdev_is_opened_by_many_and_claimed_by_one(cdev_kernel: FakeKernel) -> None:
    # drivers/vfio/device_cdev.c; vfio_main.c, vfio_df_open; facts/kubelet-cdi-kata-contract.md
    sysfs = cdev_kernel.sysfs()
    first, second = cdev_kernel.vfio_open_cdev("vfio0"), cdev_kernel.vfio_open_cdev("vfio0")
    assert sysfs.pci_device(GPU).enable == 0
    first.bind_iommufd("one")
    assert sysfs.pci_device(GPU).enable == 1
    with pytest.raises(OSError, match="Invalid argument"):
        second.bind_iommufd("another")
    with pytest.raises(OSError, match="busy"):
        cdev_kernel.vfio_open_group(65)
    first.close()
    second.bind_iommufd("another")
    second.close()
    assert sysfs.pci_device(GPU).enable == 0


def test_a_cdev_cannot_be_claimed_while_its_group_is_open(cdev_kernel: FakeKernel) -> None:
    # drivers/vfio/group.c, vfio_device_block_group
    group, cdev = cdev_kernel.vfio_open_group(65), cdev_kernel.vfio_open_cdev("vfio0")
    with pytest.raises(OSError, match="busy"):
        cdev.bind_iommufd("context")
    group.close()
    cdev.bind_iommufd("context")
    cdev.close()


def test_a_virtual_machine_shows_in_proc_with_what_it_has_open(kernel: FakeKernel) -> None:
    fd = kernel.host.root / "proc/77/fd"
    with kernel.start_vm(GPU, AUDIO, pid=77):
        assert {str(link.readlink()) for link in fd.iterdir()} == {"/dev/vfio/65"}
        assert (fd.parent / "comm").read_text() == "qemu-system-x86\n"
    assert not fd.parent.exists()


def test_a_machine_that_cannot_have_its_second_device_lets_go_of_the_first(kernel: FakeKernel) -> None:
    holder = kernel.vfio_open_group(93)
    with pytest.raises(OSError, match="busy"):
        kernel.start_vm(GPU, OTHER_GPU)
    holder.close()
    kernel.start_vm(GPU, OTHER_GPU).close()


def test_a_node_that_does_not_exist_cannot_be_opened(kernel: FakeKernel) -> None:
    with pytest.raises(FileNotFoundError):
        kernel.vfio_open_group(66)
    with pytest.raises(FileNotFoundError):
        kernel.vfio_open_cdev("vfio0")
