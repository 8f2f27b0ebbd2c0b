"""What does not come back at once from the simulated kernel: resets, locks, users, and hangs on command."""

import errno
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nodelib import attributes
from nodelib.errors import DeviceError, DeviceHung
from nodelib.pci import ConfigState, PciAddress
from nodelib.sysfs import Sysfs
from tests.fakes.gpu import Chip, EmulatedDevice
from tests.fakes.kernel import FakeKernel, can_hold_children
from tests.fakes.parts import gpu
from tests.fakes.polling import config_answer, until

GPU = PciAddress.parse("0000:3b:00.0")
OTHER_GPU = PciAddress.parse("0000:86:00.0")
SHORT_S = 0.5
"""A deadline that is meant to pass: a child process must have reached the kernel by then."""


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[FakeKernel]:
    with FakeKernel(tmp_path) as kernel:
        kernel.add_device(gpu(str(GPU), group=65), driver="vfio-pci")
        kernel.add_device(gpu(str(OTHER_GPU), group=93), driver="nvidia")
        yield kernel


@pytest.fixture
def sysfs(kernel: FakeKernel) -> Sysfs:
    return kernel.sysfs()


@pytest.fixture
def unkillable() -> None:
    if not can_hold_children():
        pytest.skip("this machine forbids ptrace, so a child that is killed dies at once")


def start(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


def driver_link(kernel: FakeKernel, address: PciAddress) -> bool:
    return (kernel.host.root / f"sys/bus/pci/devices/{address}/driver").is_symlink()


# --- unbind


@pytest.mark.usefixtures("unkillable")
def test_an_unbind_from_vfio_blocks_while_a_vm_runs_and_nothing_more_is_written_meanwhile(
    kernel: FakeKernel, sysfs: Sysfs
) -> None:
    # drivers/vfio/vfio_main.c, vfio_unregister_group_dev; DESIGN, section 2
    machine = kernel.start_vm(GPU)
    with pytest.raises(DeviceHung, match="did not finish") as hung:
        sysfs.unbind(GPU, "vfio-pci", SHORT_S)
    (pid,) = re.findall(r"/proc/(\d+)/", str(hung.value))
    until(lambda: " Z " in Path(f"/proc/{pid}/stat").read_text())  # the kill has arrived
    with pytest.raises(DeviceHung, match="still holds"):
        sysfs.set_driver_override(GPU, None)
    with pytest.raises(DeviceHung, match="still holds"):
        sysfs.reset(GPU, SHORT_S)
    sysfs.keep_awake(OTHER_GPU)  # other devices are not concerned
    machine.close()
    kernel.wait_until_idle()
    sysfs.set_driver_override(GPU, "vfio-pci")
    sysfs.bind(GPU, "vfio-pci")
    assert sysfs.pci_device(GPU).has_vfio_dev


def test_a_killed_unbind_is_still_carried_out_when_the_vm_ends(kernel: FakeKernel, sysfs: Sysfs) -> None:
    # The write is inside the kernel: killing its process does not take it back.
    machine = kernel.start_vm(GPU)
    with pytest.raises(DeviceHung):
        sysfs.unbind(GPU, "vfio-pci", SHORT_S)
    machine.close()
    kernel.wait_until_idle()
    device = sysfs.pci_device(GPU)
    assert (device.driver, device.enable, device.power_state) == (None, 0, "D0")
    assert sysfs.vfio_group_nodes() == frozenset()


def test_while_an_unbind_blocks_the_device_shows_no_driver_and_is_still_enabled(
    kernel: FakeKernel, sysfs: Sysfs
) -> None:
    # drivers/base/dd.c, __device_release_driver: the links go first; vfio_main.c: the cdev goes before the wait
    machine = kernel.start_vm(GPU)
    unbinding = start(lambda: sysfs.unbind(GPU, "vfio-pci", 20))
    until(lambda: not (kernel.host.root / f"sys/bus/pci/devices/{GPU}/vfio-dev").exists())
    device = sysfs.pci_device(GPU)
    assert (device.driver, device.has_vfio_dev, device.enable) == (None, False, 1)
    assert sysfs.vfio_group_nodes() == {65}
    machine.close()
    unbinding.join()
    assert sysfs.pci_device(GPU).enable == 0


def test_an_unbind_from_nvidia_blocks_while_a_process_has_the_device_open(kernel: FakeKernel, sysfs: Sysfs) -> None:
    # facts/field-problems.md, row 15
    with kernel.in_use(OTHER_GPU, pid=815):
        assert (kernel.host.root / "proc/815/comm").read_text() == "nvidia-persiste\n"
        with pytest.raises(DeviceHung):
            sysfs.unbind(OTHER_GPU, "nvidia", SHORT_S)
    kernel.wait_until_idle()
    assert sysfs.pci_device(OTHER_GPU).enable == 0


def test_a_verb_hangs_on_command_and_goes_on_when_released(kernel: FakeKernel, sysfs: Sysfs) -> None:
    kernel.faults.hang.add((OTHER_GPU, "d3cold_allowed"))
    writing = start(lambda: sysfs.set_d3cold_allowed(OTHER_GPU, allowed=False))
    until(lambda: bool(kernel.writes))
    assert sysfs.pci_device(OTHER_GPU).d3cold_allowed is True
    kernel.release_hangs()
    writing.join()
    assert sysfs.pci_device(OTHER_GPU).d3cold_allowed is False


# --- the device's lock


def test_reading_the_override_blocks_while_the_devices_lock_is_held(tmp_path: Path) -> None:
    # drivers/pci/pci-sysfs.c, driver_override_show: device_lock
    read: list[str] = []
    with FakeKernel(tmp_path, override_reads_block=True) as kernel:
        kernel.add_device(gpu(str(GPU), group=65), driver="vfio-pci")
        sysfs = kernel.sysfs()
        sysfs.set_driver_override(GPU, "vfio-pci")
        machine = kernel.start_vm(GPU)
        unbinding = start(lambda: sysfs.unbind(GPU, "vfio-pci", 20))
        until(lambda: not driver_link(kernel, GPU))
        override = kernel.host.root / f"sys/bus/pci/devices/{GPU}/driver_override"
        assert override.is_fifo()
        readers = [start(lambda: read.append(attributes.read_text(str(override)))) for _ in range(3)]
        machine.close()
        unbinding.join()
        for reader in readers:
            reader.join()
        assert override.is_file()
    assert read == ["vfio-pci"] * 3


def test_a_reset_waits_while_another_user_holds_the_devices_lock(kernel: FakeKernel, sysfs: Sysfs) -> None:
    # drivers/pci/pci.c, pci_dev_lock; facts/fsp-and-cc-mode.md, section 5
    device = EmulatedDevice(Chip.GH100)
    kernel.attach(OTHER_GPU, device)
    with kernel.in_use(OTHER_GPU):
        unbinding = start(lambda: sysfs.unbind(OTHER_GPU, "nvidia", 20))
        until(lambda: not driver_link(kernel, OTHER_GPU))
        with pytest.raises(DeviceHung):
            kernel.sysfs().reset(OTHER_GPU, SHORT_S)
        assert device.resets == 0
    unbinding.join()
    kernel.wait_until_idle()
    assert device.resets == 1


def test_a_vm_cannot_open_a_device_that_is_being_reset(kernel: FakeKernel, sysfs: Sysfs) -> None:
    # drivers/vfio/pci/vfio_pci_core.c, vfio_pci_core_enable: pci_try_reset_function
    kernel.faults.hang.add((GPU, "reset"))
    resetting = start(lambda: sysfs.reset(GPU, 20))
    until(lambda: bool(kernel.writes))
    until(lambda: _is_refused(kernel, errno.EAGAIN))
    assert sysfs.pci_device(GPU).enable == 0
    kernel.release_hangs()
    resetting.join()
    kernel.start_vm(GPU).close()


def _is_refused(kernel: FakeKernel, number: int) -> bool:
    try:
        kernel.start_vm(GPU).close()
    except OSError as error:
        return error.errno == number
    return False


# --- reset


def test_configuration_space_cannot_be_read_during_a_reset(kernel: FakeKernel, sysfs: Sysfs) -> None:
    # drivers/pci/access.c, pci_user_read_config; facts/field-problems.md, row 44
    kernel.faults.reset_s = 600
    resetting = start(lambda: kernel.write(kernel.host.root / f"sys/bus/pci/devices/{GPU}/reset", "1"))
    config = kernel.host.root / f"sys/bus/pci/devices/{GPU}/config"
    until(config.is_fifo)
    assert sysfs.config([GPU, OTHER_GPU])[GPU].state is ConfigState.HUNG
    assert config_answer(sysfs, OTHER_GPU).state is ConfigState.ANSWERS
    assert sysfs.config([GPU])[GPU].state is ConfigState.HUNG
    kernel.end_pauses()
    resetting.join()
    answer = config_answer(sysfs, GPU)
    assert answer.state is ConfigState.ANSWERS
    assert answer.header[:4] == b"\xde\x10\x30\x23"


def test_a_reset_acts_on_the_device_and_keeps_its_command_register(kernel: FakeKernel, sysfs: Sysfs) -> None:
    device = EmulatedDevice(Chip.GH100)
    kernel.attach(GPU, device)
    before = config_answer(sysfs, GPU)
    sysfs.reset(GPU, 20)
    assert (device.resets, device.memory_decoding, device.power_state) == (1, True, "D3hot")
    assert config_answer(sysfs, GPU) == before


def test_a_function_that_cannot_be_reset_has_no_such_attribute(kernel: FakeKernel, sysfs: Sysfs) -> None:
    # facts/fsp-and-cc-mode.md, section 5
    address = kernel.add_device(replace(gpu("0000:0a:00.0"), can_reset=False))
    with pytest.raises(DeviceError, match="No such file"):
        sysfs.reset(address, 20)


def test_a_reset_takes_one_and_nothing_else(kernel: FakeKernel) -> None:
    # drivers/pci/pci-sysfs.c, reset_store
    path = kernel.host.root / f"sys/bus/pci/devices/{GPU}/reset"
    assert [kernel.write(path, value) for value in ("0", "2", "yes")] == [errno.EINVAL] * 3


@pytest.mark.parametrize("number", [errno.ENOTTY, errno.ENODEV])
def test_a_reset_fails_on_command(kernel: FakeKernel, sysfs: Sysfs, number: int) -> None:
    # facts/fsp-and-cc-mode.md, section 5
    kernel.faults.fail[GPU, "reset"] = number
    with pytest.raises(DeviceError):
        sysfs.reset(GPU, 20)


def test_a_device_that_is_lost_in_its_reset_is_enotty_and_gone(kernel: FakeKernel, sysfs: Sysfs) -> None:
    # drivers/pci/pci.c, pci_dev_wait; facts/fsp-and-cc-mode.md, section 7
    device = EmulatedDevice(Chip.GH100)
    device.faults.gone_at_reset = True
    kernel.attach(GPU, device)
    with pytest.raises(DeviceError, match="Inappropriate ioctl"):
        sysfs.reset(GPU, 20)
    assert config_answer(sysfs, GPU).state is ConfigState.GONE


def test_a_reset_under_a_vm_is_held_against_the_writer(kernel: FakeKernel, sysfs: Sysfs) -> None:
    with kernel.start_vm(GPU):
        sysfs.reset(GPU, 20)
    assert any("virtual machine" in complaint for complaint in kernel.complaints)
