"""Reading through the one door to /sys, on trees of real files. Field problems 21, 35, 36."""

import os
import shutil
from pathlib import Path

import pytest

from nodelib.errors import DeviceError, DeviceGone, NotSupported
from nodelib.files import HostRoot
from nodelib.pci import ConfigState, PciDevice
from nodelib.slow_reads import SlowReader
from nodelib.sysfs import Sysfs
from tests.nodelib.samples import DEADLINE_S, Tree, at

GPU = at("3b")


# --- reading a device


def test_a_device_is_read_whole(tree: Tree) -> None:
    folder = tree.add(
        "3b",
        group=65,
        driver="vfio-pci",
        driver_override="vfio-pci",
        numa_node="1",
        enable="2",
        sriov_numvfs="3",
        power_state="D3hot",
        power_control="auto",
        d3cold_allowed="1",
        modalias="pci:v000010DEd00002335sv",
    )
    (folder / "vfio-dev/vfio7").mkdir(parents=True)
    (folder / "vfio-dev/vfio7/dev").write_text("511:7\n")
    (folder / "physfn").symlink_to(tree.folder("3a"))
    sysfs = tree.sysfs()
    try:
        (device,) = sysfs.with_locked_attributes([sysfs.pci_device(GPU)])
    finally:
        sysfs.close()
    assert (device.address, device.vendor, device.device, device.pci_class) == (GPU, 0x10DE, 0x2335, 0x030200)
    assert device.name == "GH100 [H200 SXM 141GB]"
    assert (device.driver, device.driver_override, device.iommu_group) == ("vfio-pci", "vfio-pci", 65)
    assert (device.numa_node, device.enable, device.vf_count) == (1, 2, 3)
    assert (device.has_vfio_dev, device.vfio_cdev, device.physical_function) == (True, "vfio7", at("3a"))
    assert (device.power_state, device.power_control, device.d3cold_allowed) == ("D3hot", "auto", True)
    assert device.modalias == "pci:v000010DEd00002335sv"
    assert device.faults == ()


def test_what_a_kernel_lacks_is_none_and_no_fault(tree: Tree) -> None:
    folder = tree.add("3b")
    for name in ("enable", "numa_node"):
        (folder / name).unlink()
    device = tree.sysfs().pci_device(GPU)
    assert (device.driver, device.driver_override, device.iommu_group, device.numa_node) == (None, None, None, None)
    assert (device.vfio_cdev, device.physical_function, device.d3cold_allowed) == (None, None, None)
    assert (device.power_state, device.power_control, device.vf_count, device.modalias) == (None, None, 0, "")
    assert device.enable is None  # which counts as used
    assert device.faults == ()


def test_only_nvidias_devices_are_named_from_nvidias_section(tree: Tree) -> None:
    """Field problem 35."""
    tree.add("3b", vendor="0x15b3")
    assert tree.sysfs().pci_device(GPU).name is None


@pytest.mark.parametrize("attribute", ["numa_node", "enable", "d3cold_allowed"])
@pytest.mark.parametrize("text", ["", "garbage", "\ufffd\ufffd", "-x", "\u0661"])
def test_an_attribute_that_makes_no_sense_is_a_fault_beside_the_rest(tree: Tree, attribute: str, text: str) -> None:
    tree.add("3b", group=65, driver="vfio-pci", **{attribute: text})
    device = tree.sysfs().pci_device(GPU)
    (fault,) = device.faults
    assert fault.startswith(f"{attribute} makes no sense (")
    assert (device.driver, device.iommu_group, device.device) == ("vfio-pci", 65, 0x2335)


def test_an_attribute_that_cannot_be_read_is_a_fault_beside_the_rest(tree: Tree) -> None:
    folder = tree.add("3b", driver="vfio-pci")
    (folder / "enable").unlink()
    (folder / "enable").mkdir()
    (folder / "numa_node").unlink()
    (folder / "numa_node").symlink_to("/proc/self/mem")
    device = tree.sysfs().pci_device(GPU)
    assert device.faults == (
        "numa_node cannot be read (Input/output error)",
        "enable cannot be read (Is a directory)",
    )
    assert (device.numa_node, device.enable, device.driver) == (None, None, "vfio-pci")


@pytest.mark.parametrize("attribute", ["vendor", "device", "class"])
@pytest.mark.parametrize("text", ["", "zz", "0x10_de", "0x99999999"])
def test_a_device_without_an_identity_is_an_error_with_the_path(tree: Tree, attribute: str, text: str) -> None:
    path = tree.add("3b") / attribute
    path.write_text(text)
    with pytest.raises(DeviceError, match=f"0000:3b:00.0: {attribute} makes no sense") as caught:
        tree.sysfs().pci_device(GPU)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("attribute", ["vendor", "device", "class"])
def test_a_missing_identity_in_a_folder_that_is_there_is_an_error(tree: Tree, attribute: str) -> None:
    (tree.add("3b") / attribute).unlink()
    with pytest.raises(DeviceError, match=f"{attribute} cannot be read") as caught:
        tree.sysfs().pci_device(GPU)
    assert not isinstance(caught.value, DeviceGone)


def test_a_device_whose_folder_vanished_is_gone(tree: Tree) -> None:
    shutil.rmtree(tree.add("3b"))
    with pytest.raises(DeviceGone, match=r"0000:3b:00\.0: the device left the bus"):
        tree.sysfs().pci_device(GPU)


# --- reading the node


def test_a_node_without_pci_is_not_supported_and_told_what_to_mount(tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match=r"bus/pci/devices \(No such file or directory\).*--host-root"):
        Sysfs(HostRoot(tmp_path)).pci_folder_names()


def test_the_members_of_a_group_are_its_functions_in_order(tree: Tree) -> None:
    for where in ("3b.1", "3b", "3a"):
        tree.add(where, group=65)
    (tree.sys / "kernel/iommu_groups/65/devices/not-a-pci-device").touch()
    group = tree.sysfs().iommu_group(65)
    assert group.members == (at("3a"), at("3b"), at("3b.1"))
    assert group.name is None
    assert not group.is_noiommu


def test_a_group_that_vfio_made_without_an_iommu_says_so(tree: Tree) -> None:
    tree.add("3b", group=65)
    (tree.sys / "kernel/iommu_groups/65/name").write_text("vfio-noiommu\n")
    assert tree.sysfs().iommu_group(65).is_noiommu


def test_numbers_and_names_are_empty_where_the_kernel_has_no_such_folder(tmp_path: Path) -> None:
    sysfs = Sysfs(HostRoot(tmp_path))
    assert not sysfs.iommu_group_numbers() | sysfs.vfio_group_nodes()
    assert not sysfs.drivers()
    assert sysfs.iommu_group(65).members == ()


def test_groups_nodes_and_drivers_are_listed(tree: Tree) -> None:
    tree.add("3b", group=65, driver="vfio-pci")
    (tree.sys / "kernel/iommu_groups/7").mkdir()
    (tree.sys / "class/vfio/65").mkdir()
    sysfs = tree.sysfs()
    assert sysfs.iommu_group_numbers() == {7, 65}
    assert sysfs.vfio_group_nodes() == {65}
    assert sysfs.drivers() == {"vfio-pci"}


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("[none] integrity confidentiality\n", None),
        ("none [integrity] confidentiality\n", "integrity"),
        ("none integrity [confidentiality]\n", "confidentiality"),
        ("garbage\n", None),
        (None, None),
    ],
)
def test_kernel_lockdown_is_the_word_in_brackets(tree: Tree, text: str | None, mode: str | None) -> None:
    if text is not None:
        (tree.sys / "kernel/security").mkdir()
        (tree.sys / "kernel/security/lockdown").write_text(text)
    assert tree.sysfs().lockdown() == mode


def test_a_module_parameter_is_read_or_absent(tree: Tree) -> None:
    (tree.sys / "module/vfio/parameters").mkdir(parents=True)
    (tree.sys / "module/vfio/parameters/enable_unsafe_noiommu_mode").write_text("Y\n")
    assert tree.sysfs().module_parameter("vfio", "enable_unsafe_noiommu_mode") == "Y"
    assert tree.sysfs().module_parameter("vfio", "other") is None


def test_configuration_space_is_read_from_each_devices_file(tree: Tree) -> None:
    (tree.add("3b") / "config").write_bytes(b"\xde\x10\x35\x23" + bytes(60))
    tree.add("3c")
    sysfs = tree.sysfs()
    try:
        answers = sysfs.config([GPU, at("3c")])
    finally:
        sysfs.close()
    assert {address: answer.state for address, answer in answers.items()} == {
        GPU: ConfigState.ANSWERS,
        at("3c"): ConfigState.UNREADABLE,
    }


def test_a_bar_is_mapped_through_its_resource_file(tree: Tree) -> None:
    assert tree.sysfs().resource_path(GPU) == tree.folder("3b") / "resource0"
    assert tree.sysfs().resource_path(GPU, 2) == tree.folder("3b") / "resource2"


# What the kernel tells only under the device's lock.


def locked(tree: Tree, *, timeout_s: float = DEADLINE_S) -> PciDevice:
    sysfs = Sysfs(tree.host, slow_reader=SlowReader(timeout_s))
    try:
        return sysfs.with_locked_attributes([sysfs.pci_device(GPU)])[0]
    finally:
        sysfs.close()


def test_a_device_whose_lock_is_held_does_not_hold_the_look_up(tree: Tree) -> None:
    """Linux, drivers/pci/pci-sysfs.c, driver_override_show: a hung unbind holds what it waits for."""
    os.mkfifo(tree.add("3b") / "driver_override")
    device = locked(tree, timeout_s=0.2)
    assert (device.is_locked, device.driver_override) == (True, None)


def test_what_is_read_without_its_lock_says_nothing_of_its_override(tree: Tree) -> None:
    os.mkfifo(tree.add("3b") / "driver_override")
    assert tree.sysfs().pci_device(GPU).is_locked is False


@pytest.mark.parametrize("text", ["", "garbage", "-x", "\u0661"])
def test_a_number_of_virtual_functions_that_makes_no_sense_is_a_fault(tree: Tree, text: str) -> None:
    tree.add("3b", driver_override="(null)", sriov_numvfs=text)
    device = locked(tree)
    (fault,) = device.faults
    assert fault.startswith("sriov_numvfs makes no sense")
    assert (device.vf_count, device.driver_override, device.is_locked) == (0, None, False)


def test_an_override_that_cannot_be_read_is_a_fault(tree: Tree) -> None:
    (tree.add("3b", sriov_numvfs="2") / "driver_override").mkdir()
    device = locked(tree)
    assert device.faults == ("driver_override cannot be read (Is a directory)",)
    assert (device.vf_count, device.driver_override, device.is_locked) == (2, None, False)


def test_a_kernel_without_virtual_functions_is_no_fault(tree: Tree) -> None:
    tree.add("3b", driver_override="vfio-pci")
    device = locked(tree)
    assert (device.vf_count, device.driver_override, device.faults) == (0, "vfio-pci", ())
