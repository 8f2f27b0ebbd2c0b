"""The simulated kernel as such: its tree, its events, its faults on command, and its end."""

import errno
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nodelib.errors import DeviceError, DeviceGone, DeviceHung
from nodelib.pci import PciAddress
from nodelib.sysfs import Sysfs
from tests.fakes.kernel import FakeKernel, Hardware, Uevent
from tests.fakes.parts import CLASS_AUDIO, gpu, other, port
from tests.fakes.polling import config_answer, until

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


def test_an_attribute_that_a_device_lacks_is_enoent_and_is_not_made(kernel: FakeKernel, sysfs: Sysfs) -> None:
    address = kernel.add_device(replace(gpu("0000:0a:00.0"), d3cold_allowed=None, numa_node=None))
    with pytest.raises(DeviceError, match="No such file"):
        sysfs.set_d3cold_allowed(address, allowed=False)
    device = sysfs.pci_device(address)
    assert (device.d3cold_allowed, device.numa_node, device.faults) == (None, None, ())


def test_an_attribute_that_is_only_read_is_eacces_for_root_too(kernel: FakeKernel) -> None:
    # fs/kernfs/file.c, kernfs_fop_open
    assert write(kernel, f"bus/pci/devices/{GPU}/vendor", "0x1234") == errno.EACCES


def test_a_read_only_sys_is_erofs(kernel: FakeKernel, sysfs: Sysfs) -> None:
    kernel.faults.is_read_only = True
    with pytest.raises(DeviceError, match="read-only"):
        sysfs.set_driver_override(GPU, "vfio-pci")
    assert attribute(kernel, "driver_override", GPU) == "(null)\n"


def test_a_write_fails_on_command_in_a_child_process_too(kernel: FakeKernel, sysfs: Sysfs) -> None:
    kernel.faults.fail[GPU, "unbind"] = errno.EPERM
    with pytest.raises(DeviceError, match="Operation not permitted"):
        sysfs.unbind(GPU, "nvidia", 10)
    assert sysfs.pci_device(GPU).driver == "nvidia"


def test_a_device_may_vanish_between_two_writes(kernel: FakeKernel, sysfs: Sysfs) -> None:
    sysfs.set_driver_override(OTHER_GPU, "vfio-pci")
    kernel.faults.before_write = lambda path, _value: kernel.unplug(OTHER_GPU) if path == str(BIND) else None
    with pytest.raises(DeviceGone):
        sysfs.bind(OTHER_GPU, "vfio-pci")
    assert [path for path, _ in kernel.writes] == [f"bus/pci/devices/{OTHER_GPU}/driver_override", str(BIND)]


def test_two_devices_are_bound_at_the_same_time(kernel: FakeKernel, sysfs: Sysfs) -> None:
    third = kernel.add_device(gpu("0000:0a:00.0", group=3))
    kernel.faults.hang |= {(OTHER_GPU, "bind"), (third, "bind")}
    threads = [threading.Thread(target=bind_to_vfio, args=(sysfs, address)) for address in (OTHER_GPU, third)]
    for thread in threads:
        thread.start()
    # The links are made before the driver is asked (drivers/base/dd.c, really_probe): both are inside their drivers.
    until(lambda: all((kernel.host.root / f"sys/bus/pci/drivers/vfio-pci/{a}").exists() for a in (OTHER_GPU, third)))
    kernel.release_hangs()
    for thread in threads:
        thread.join()
    assert {sysfs.pci_device(address).has_vfio_dev for address in (OTHER_GPU, third)} == {True}


def test_events_come_when_the_tree_shows_what_they_say(kernel: FakeKernel, sysfs: Sysfs) -> None:
    seen: list[tuple[str, str, str, bool]] = []

    def look(event: Uevent) -> None:
        there = (kernel.host.root / f"sys{event.devpath}").exists()
        seen.append((event.action, event.subsystem, event.sys_name, there))

    unsubscribe = kernel.subscribe(look)
    bind_to_vfio(sysfs)
    sysfs.unbind(OTHER_GPU, "vfio-pci", 10)
    unsubscribe()
    sysfs.probe(OTHER_GPU)
    assert seen == [
        ("add", "vfio", "93", True),
        ("add", "vfio-dev", "vfio0", True),
        ("bind", "pci", str(OTHER_GPU), True),
        ("remove", "vfio-dev", "vfio0", False),
        ("remove", "vfio", "93", False),
        ("unbind", "pci", str(OTHER_GPU), True),
    ]


def test_the_tree_is_made_of_relative_links_as_in_sysfs(kernel: FakeKernel) -> None:
    parent = kernel.add_device(port("0000:15:01.0"))
    address = kernel.add_device(gpu("0000:16:00.0", behind=str(parent), group=7), driver="nvidia")
    sys = kernel.host.root / "sys"
    link = sys / f"bus/pci/devices/{address}"
    assert str(link.readlink()) == f"../../../devices/pci0000:15/{parent}/{address}"
    assert str((link / "driver").readlink()) == "../../../../bus/pci/drivers/nvidia"
    assert str((link / "iommu_group").readlink()) == "../../../../kernel/iommu_groups/7"
    assert (link / "subsystem").resolve() == sys / "bus/pci"
    assert (sys / f"kernel/iommu_groups/7/devices/{address}").resolve() == link.resolve()
    assert (sys / f"bus/pci/drivers/nvidia/{address}").resolve() == link.resolve()


def test_companions_are_found_by_their_own_drivers(kernel: FakeKernel, sysfs: Sysfs) -> None:
    address = kernel.add_device(other("0000:3b:00.1", 0x10DE, 0x10F7, CLASS_AUDIO, group=65))
    kernel.load_driver("snd_hda_intel")
    assert sysfs.pci_device(address).driver == "snd_hda_intel"


def test_a_hardware_description_shows_in_every_identifying_attribute(kernel: FakeKernel, sysfs: Sysfs) -> None:
    address = kernel.add_device(
        Hardware(PciAddress.parse("0000:0a:00.0"), 0x10DE, 0x2335, 0x030200, subsystem=(0x10DE, 0x18BF), numa_node=1)
    )
    device = sysfs.pci_device(address)
    assert (device.vendor, device.device, device.pci_class, device.numa_node) == (0x10DE, 0x2335, 0x030200, 1)
    assert device.modalias == "pci:v000010DEd00002335sv000010DEsd000018BFbc03sc02i00"
    header = config_answer(sysfs, address).header
    assert header[:4] == b"\xde\x10\x35\x23"
    assert header[9:12] == b"\x00\x02\x03"
    assert header[0x2C:0x30] == b"\xde\x10\xbf\x18"


def test_a_closed_kernel_leaves_no_thread_process_or_descriptor(tmp_path: Path) -> None:
    def descriptors() -> set[str]:
        return {str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()}

    def children() -> set[str]:
        return set(Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split())

    threads, open_before, processes = set(threading.enumerate()), descriptors(), children()
    kernel = FakeKernel(tmp_path)
    address = kernel.add_device(gpu(str(GPU), group=65), driver="nvidia")
    sysfs = kernel.sysfs()
    sysfs.config([address])
    kernel.faults.hang.add((address, "unbind"))
    with pytest.raises(DeviceHung):
        sysfs.unbind(address, "nvidia", 0.3)
    kernel.close()
    until(lambda: set(threading.enumerate()) <= threads)  # the reader of configuration space ends by itself
    assert children() == processes
    assert {
        name for name in descriptors() - open_before if "pipe" in name or "socket" in name or "kernel" in name
    } == set()


def test_a_write_that_waits_when_the_kernel_is_closed_is_eio(tmp_path: Path) -> None:
    answers: list[int] = []
    kernel = FakeKernel(tmp_path)
    address = kernel.add_device(gpu(str(GPU), group=65), driver="nvidia")
    kernel.faults.hang.add((address, "d3cold_allowed"))
    path = f"bus/pci/devices/{address}/d3cold_allowed"
    thread = threading.Thread(target=lambda: answers.append(write(kernel, path, "0")))
    thread.start()
    until(lambda: bool(kernel.writes))
    kernel.close()
    thread.join()
    assert answers == [errno.EIO]
