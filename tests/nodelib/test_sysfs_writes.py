"""Writing through the one door to /sys, on trees of real files. Field problems 15, 19, 20, 23."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nodelib.errors import DeviceBusy, DeviceError, DeviceGone, DeviceHung
from nodelib.kernel_writes import KernelWriter
from nodelib.pci import PciAddress
from nodelib.sysfs import Sysfs
from tests.nodelib.samples import DEADLINE_S, Tree, at, wait_until

GPU = at("3b")

Write = Callable[[Sysfs, PciAddress], None]
DEVICE_WRITES: dict[str, tuple[Write, str]] = {
    "driver_override": (lambda s, a: s.set_driver_override(a, "vfio-pci"), "vfio-pci\n"),
    "d3cold_allowed": (lambda s, a: s.set_d3cold_allowed(a, allowed=False), "0"),
    "power/control": (lambda s, a: s.keep_awake(a), "on"),
    "reset": (lambda s, a: s.reset(a, DEADLINE_S), "1"),
}
DRIVER_WRITES: dict[str, Write] = {
    "drivers/vfio-pci/bind": lambda s, a: s.bind(a, "vfio-pci"),
    "drivers/vfio-pci/unbind": lambda s, a: s.unbind(a, "vfio-pci", DEADLINE_S),
    "drivers_probe": lambda s, a: s.probe(a),
}


def succeeds(write: Callable[[], None]) -> bool:
    """Whether the device takes a write, now that the process of an earlier one may have ended."""
    try:
        write()
    except DeviceHung:
        return False
    return True


@pytest.mark.parametrize("attribute", DEVICE_WRITES)
def test_a_write_replaces_the_attribute_of_its_device(tree: Tree, attribute: str) -> None:
    write, expected = DEVICE_WRITES[attribute]
    path = tree.add("3b") / attribute
    path.write_text("a longer text than what is written\n")
    write(tree.sysfs(), GPU)
    assert path.read_text() == expected


def test_an_override_is_lifted_by_an_empty_line(tree: Tree) -> None:
    """Linux, sysfs-bus-pci: an empty string opts out of the override; writing none at all reaches no driver."""
    path = tree.add("3b", driver_override="vfio-pci") / "driver_override"
    tree.sysfs().set_driver_override(GPU, None)
    assert path.read_text() == "\n"


def test_the_command_register_is_two_bytes_of_configuration_space(tree: Tree) -> None:
    path = tree.add("3b") / "config"
    path.write_bytes(b"\xde\x10\x35\x23\x00\x00\x10\x00")
    tree.sysfs().write_command(GPU, 0x0106)
    assert path.read_bytes() == b"\xde\x10\x35\x23\x06\x01\x10\x00"
    path.unlink()
    with pytest.raises(DeviceError, match="No such file or directory"):
        tree.sysfs().write_command(GPU, 0x0106)
    assert not path.exists()


@pytest.mark.parametrize("attribute", DRIVER_WRITES)
def test_binding_writes_the_address_to_the_bus(tree: Tree, attribute: str) -> None:
    tree.add("3b")
    tree.add_driver("vfio-pci")
    DRIVER_WRITES[attribute](tree.sysfs(), GPU)
    assert (tree.pci / attribute).read_text() == "0000:3b:00.0"


@pytest.mark.parametrize("attribute", DEVICE_WRITES)
def test_a_write_creates_nothing(tree: Tree, attribute: str) -> None:
    """models.md 4.5, 5: a missing attribute must fail in a folder of plain files as it does in sysfs."""
    path = tree.add("3b") / attribute
    with pytest.raises(
        DeviceError, match=r"the kernel refused the write to .* \(No such file or directory\)"
    ) as caught:
        DEVICE_WRITES[attribute][0](tree.sysfs(), GPU)
    assert not isinstance(caught.value, DeviceGone)
    assert not path.exists()


@pytest.mark.parametrize("attribute", DRIVER_WRITES)
def test_a_driver_that_is_not_loaded_is_not_created(tree: Tree, attribute: str) -> None:
    tree.add("3b")
    (tree.pci / "drivers_probe").unlink()
    with pytest.raises(DeviceError, match="No such file or directory"):
        DRIVER_WRITES[attribute](tree.sysfs(), GPU)
    assert not (tree.pci / attribute).exists()


@pytest.mark.parametrize("attribute", DEVICE_WRITES)
def test_a_write_to_a_device_that_left_says_so(tree: Tree, attribute: str) -> None:
    with pytest.raises(DeviceGone, match=r"0000:3b:00\.0: the device left the bus"):
        DEVICE_WRITES[attribute][0](tree.sysfs(), GPU)


# What the kernel answers, with real files that answer so.


@pytest.mark.parametrize("attribute", ["reset", "d3cold_allowed"])  # in a child and at once
def test_a_full_device_is_told_in_the_kernels_words(tree: Tree, attribute: str) -> None:
    (tree.add("3b") / attribute).symlink_to("/dev/full")
    with pytest.raises(
        DeviceError, match=rf"the kernel refused the write to .*/{attribute} \(No space left on device\)"
    ):
        DEVICE_WRITES[attribute][0](tree.sysfs(), GPU)


@pytest.mark.parametrize("attribute", ["reset", "d3cold_allowed"])
def test_a_folder_in_place_of_an_attribute_is_told(tree: Tree, attribute: str) -> None:
    (tree.add("3b") / attribute).mkdir()
    with pytest.raises(DeviceError, match="Is a directory"):
        DEVICE_WRITES[attribute][0](tree.sysfs(), GPU)


def test_a_vfio_driver_that_finds_no_iommu_is_told_as_such(tree: Tree) -> None:
    """Field problem 23. A process's oom_score_adj answers EINVAL to an address, as vfio-pci's bind does then."""
    tree.add("3b")
    bind = tree.add_driver("vfio-pci") / "bind"
    bind.unlink()
    bind.symlink_to("/proc/self/oom_score_adj")
    with pytest.raises(DeviceError, match=r"\(EINVAL\): a VFIO driver says so where the IOMMU is off"):
        tree.sysfs().bind(GPU, "vfio-pci")


def test_a_reset_that_the_kernel_does_not_finish_is_hung(tree: Tree) -> None:
    reset = tree.add("3b") / "reset"
    os.mkfifo(reset)
    sysfs = tree.sysfs()
    with pytest.raises(
        DeviceHung, match=r"0000:3b:00\.0: the kernel did not finish the write to .*/reset within 0\.1 s"
    ):
        sysfs.reset(GPU, 0.1)
    reset.unlink()
    reset.touch()
    wait_until(lambda: succeeds(lambda: sysfs.reset(GPU, DEADLINE_S)))
    assert reset.read_text() == "1"


# What it answers where no plain file can be made to.


class RefusingWriter(KernelWriter):
    """A kernel that answers each write with one errno."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def write(self, address: PciAddress, path: Path, value: str, timeout_s: float = DEADLINE_S) -> None:
        raise OSError(self._number, os.strerror(self._number), str(path))


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.EBUSY, DeviceBusy, "it is in use (EBUSY)"),
        (errno.EACCES, DeviceError, "(Permission denied): run as root"),
        (errno.EPERM, DeviceError, "(Operation not permitted): run as root"),
        (errno.EROFS, DeviceError, "/sys is mounted read-only here; mount the host's /sys writable"),
        (errno.ENODEV, DeviceError, "(No such device)"),
        (errno.ENXIO, DeviceError, "(No such device or address)"),
        (errno.EINVAL, DeviceError, "(Invalid argument)"),
        (errno.EIO, DeviceError, "(Input/output error)"),
        (errno.ENOTTY, DeviceError, "(Inappropriate ioctl for device)"),
    ],
)
def test_each_answer_of_the_kernel_has_its_own_words(
    tree: Tree, number: int, kind: type[DeviceError], words: str
) -> None:
    tree.add("3b")
    with pytest.raises(DeviceError) as caught:
        Sysfs(tree.host, RefusingWriter(number)).reset(GPU, DEADLINE_S)
    assert type(caught.value) is kind
    assert caught.value.reason.startswith(f"the kernel refused the write to {tree.folder('3b')}/reset")
    assert caught.value.reason.endswith(words)


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENODEV, errno.ENXIO])
def test_no_such_device_means_gone_where_its_folder_is_gone(tree: Tree, number: int) -> None:
    with pytest.raises(DeviceGone):
        Sysfs(tree.host, RefusingWriter(number)).bind(GPU, "vfio-pci")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_kernel_lockdown_is_named_where_it_forbids_a_write(tree: Tree, number: int) -> None:
    """Field problem 19."""
    tree.add("3b")
    (tree.sys / "kernel/security").mkdir()
    (tree.sys / "kernel/security/lockdown").write_text("none [integrity] confidentiality\n")
    with pytest.raises(DeviceError, match=r"kernel lockdown \(integrity\) is in force"):
        Sysfs(tree.host, RefusingWriter(number)).keep_awake(GPU)


def test_invalid_argument_is_about_the_iommu_only_at_bind(tree: Tree) -> None:
    tree.add("3b")
    with pytest.raises(DeviceError, match="Invalid argument") as caught:
        Sysfs(tree.host, RefusingWriter(errno.EINVAL)).set_d3cold_allowed(GPU, allowed=True)
    assert "IOMMU" not in str(caught.value)
