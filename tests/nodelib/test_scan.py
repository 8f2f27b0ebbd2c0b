"""One look at the whole node, on trees of real files. Field problems 2, 21, 35."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodelib.errors import NotSupported
from nodelib.files import HostRoot
from nodelib.inventory import Inventory
from nodelib.iommu import viability_problems
from nodelib.pci import ConfigState, PciAddress
from nodelib.scan import scan
from nodelib.slow_reads import SlowReader
from nodelib.sysfs import Sysfs
from nodelib.vfio import Naming, assignable_devices
from tests.nodelib.samples import PROPERTY, Tree, at, wait_until


def look_at(tree: Tree) -> Inventory:
    return scan(tree.sysfs(), tree.host)


def faults_of(inventory: Inventory) -> list[str]:
    return [str(fault) for fault in inventory.faults]


def test_a_node_without_any_device_is_a_state_and_no_error(tree: Tree) -> None:
    """Field problem 3."""
    assert look_at(tree) == Inventory()


def test_a_node_without_sys_is_not_supported(tmp_path: Path) -> None:
    host = HostRoot(tmp_path)
    with pytest.raises(NotSupported):
        scan(Sysfs(host), host)


def test_nvidias_functions_and_what_shares_their_groups_are_found_in_the_order_of_the_bus(tree: Tree) -> None:
    tree.add("9b", group=70, driver="vfio-pci")
    tree.add("3b.1", device="0x22be", pci_class="0x040300", group=65)
    tree.add("3b", group=65, driver="vfio-pci")
    tree.add("3a", vendor="0x8086", pci_class="0x060400", group=65, driver="pcieport")
    tree.add("10", vendor="0x15b3", pci_class="0x020000", group=10, driver="mlx5_core")
    tree.add("11", vendor="0x15b3", pci_class="0x020000")
    (tree.sys / "class/vfio/65").mkdir()
    inventory = look_at(tree)
    assert [d.address for d in inventory.devices] == [at("3a"), at("3b"), at("3b.1"), at("9b")]
    assert [group.number for group in inventory.groups] == [65, 70]
    assert inventory.group_numbers == {10, 65, 70}
    assert inventory.vfio_groups == {65}
    assert inventory.faults == ()
    assert inventory.config == {}


def test_of_another_vendors_device_nothing_but_the_vendor_is_read(tree: Tree) -> None:
    """DESIGN section 6: a node with hundreds of functions costs little."""
    folder = tree.add("10", vendor="0x15b3", pci_class="garbage")
    (folder / "enable").write_text("garbage")
    assert look_at(tree) == Inventory()


def test_a_gpu_without_a_group_is_found_all_the_same(tree: Tree) -> None:
    tree.add("3b", driver="nvidia")
    inventory = look_at(tree)
    assert [d.address for d in inventory.gpus] == [at("3b")]
    assert inventory.groups == ()


# --- one device's failure belongs to that device


def spoil(folder: Path, how: str) -> None:
    vendor = folder / "vendor"
    vendor.unlink()
    match how:
        case "missing":
            return
        case "a folder":
            vendor.mkdir()
        case "unreadable":
            vendor.symlink_to("/proc/self/mem")
        case "a loop":
            vendor.symlink_to("vendor")
        case text:
            vendor.write_text(text)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("missing", "vendor cannot be read (No such file or directory)"),
        ("a folder", "vendor cannot be read (Is a directory)"),
        ("unreadable", "vendor cannot be read (Input/output error)"),
        ("a loop", "vendor cannot be read (Too many levels of symbolic links)"),
        ("", "not understood ('' is no hexadecimal id)"),
        ("NVIDIA\n", "not understood ('NVIDIA' is no hexadecimal id)"),
        ("0x\u0661\u0660de\n", "not understood ('0x\ufffd\ufffd\ufffd\ufffdde' is no hexadecimal id)"),
    ],
)
def test_a_device_whose_vendor_cannot_be_told_leaves_the_others(tree: Tree, how: str, reason: str) -> None:
    spoil(tree.add("3b"), how)
    tree.add("9b")
    inventory = look_at(tree)
    assert [d.address for d in inventory.devices] == [at("9b")]
    assert faults_of(inventory) == [f"0000:3b:00.0: {reason}"]


def test_a_folder_that_is_no_address_leaves_the_others(tree: Tree) -> None:
    (tree.pci / "devices/garbage").mkdir()
    tree.add("9b")
    inventory = look_at(tree)
    assert [d.address for d in inventory.devices] == [at("9b")]
    (fault,) = faults_of(inventory)
    assert fault.startswith("garbage: not understood ('garbage' is not a PCI address")


@pytest.mark.parametrize("attribute", ["device", "class"])
def test_a_gpu_without_an_identity_leaves_the_others(tree: Tree, attribute: str) -> None:
    (tree.add("3b") / attribute).write_text("garbage")
    tree.add("9b")
    inventory = look_at(tree)
    assert [d.address for d in inventory.devices] == [at("9b")]
    (fault,) = faults_of(inventory)
    assert fault.startswith(f"0000:3b:00.0: {attribute} makes no sense")


def test_a_gpu_with_a_garbled_attribute_stays_and_the_fault_is_told(tree: Tree) -> None:
    tree.add("3b", numa_node="north")
    inventory = look_at(tree)
    assert [d.address for d in inventory.devices] == [at("3b")]
    assert faults_of(inventory) == ["0000:3b:00.0: numa_node makes no sense ('north' is no number)"]


@settings(PROPERTY, max_examples=25)  # each makes a tree of files
@given(
    st.dictionaries(
        st.sampled_from(["vendor", "device", "class", "enable", "numa_node", "driver_override", "sriov_numvfs"]),
        st.binary(max_size=12) | st.none(),
        min_size=1,
    ),
    st.sampled_from(["0000:9a:00.0", "garbage", "65", "0000:9b:00.0"]),
)
def test_whatever_one_device_holds_the_other_is_read_right(attributes: dict[str, bytes | None], group: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        tree = Tree(Path(root))
        folder = tree.add("3b")
        (folder / "iommu_group").symlink_to(f"../{group}")
        for name, content in attributes.items():
            (folder / name).unlink(missing_ok=True)
            if content is not None:
                (folder / name).write_bytes(content)
        tree.add("9b", group=70, driver="vfio-pci")
        good = look_at(tree).by_address[at("9b")]
    assert (good.iommu_group, good.driver, good.enable, good.faults) == (70, "vfio-pci", 0, ())


def test_a_member_of_a_group_that_cannot_be_read_is_told_and_holds_the_group_up(tree: Tree) -> None:
    tree.add("3b", group=65, driver="vfio-pci")
    spoil(tree.add("3c", vendor="0x15b3", group=65), "a folder")
    inventory = look_at(tree)
    assert faults_of(inventory) == ["0000:3c:00.0: vendor cannot be read (Is a directory)"]  # once
    (problem,) = viability_problems(inventory.groups[0], inventory.by_address)
    assert problem.code == "member-unreadable"
    assert "0000:3c:00.0" in problem.text


def test_a_gpu_whose_group_does_not_list_it_is_not_lost(tree: Tree) -> None:
    """A device leaves its group's folder before its own goes; capacity must not flicker meanwhile."""
    tree.add("3b", group=65, driver="vfio-pci")
    shutil.rmtree(tree.sys / "kernel/iommu_groups/65")
    (device,) = assignable_devices(look_at(tree), Naming())
    assert (device.id, device.addresses) == ("65", (at("3b"),))


# --- what leaves while we look


class LeavingSysfs(Sysfs):
    """A node from which a device is unplugged right after the folders were listed, or after its vendor was read."""

    def __init__(self, tree: Tree, address: PciAddress, moment: str) -> None:
        super().__init__(tree.host)
        self._leaving = tree.folder(str(address))
        self._moment = moment

    def pci_folder_names(self) -> tuple[str, ...]:
        names = super().pci_folder_names()
        self._leave_at("listed")
        return names

    def vendor(self, folder: str) -> int:
        vendor = super().vendor(folder)
        if folder == self._leaving.name:
            self._leave_at("known")
        return vendor

    def _leave_at(self, moment: str) -> None:
        if moment == self._moment:
            shutil.rmtree(self._leaving, ignore_errors=True)


@pytest.fixture(params=["listed", "known"])
def leaving(request: pytest.FixtureRequest, tree: Tree) -> LeavingSysfs:
    tree.add("3b", group=65)
    tree.add("9b", group=70)
    return LeavingSysfs(tree, at("3b"), request.param)


def test_a_device_that_leaves_during_the_look_is_no_fault(leaving: LeavingSysfs, tree: Tree) -> None:
    inventory = scan(leaving, tree.host)
    assert [d.address for d in inventory.devices] == [at("9b")]
    assert inventory.faults == ()


# --- the host's /dev


def test_nodes_are_seen_below_the_hosts_dev(tree: Tree) -> None:
    (tree.root / "dev/vfio/devices").mkdir(parents=True)
    for name in ("vfio", "65", "devices/vfio3"):
        (tree.root / "dev/vfio" / name).touch()
    assert look_at(tree).dev_vfio == frozenset({"vfio", "devices", "65", "devices/vfio3"})


def test_a_dev_without_vfio_shows_no_nodes_and_no_dev_shows_nothing_at_all(tree: Tree) -> None:
    assert look_at(tree).dev_vfio is None
    (tree.root / "dev").mkdir()
    (tree.root / "dev/null").touch()
    assert look_at(tree).dev_vfio == frozenset()


# --- what is told under a device's lock only


def test_overrides_and_virtual_functions_are_read_only_when_they_are_wanted(tree: Tree) -> None:
    tree.add("3b", driver_override="vfio-pci", sriov_numvfs="2")
    os.mkfifo(tree.add("9b") / "driver_override")
    sysfs = Sysfs(tree.host, slow_reader=SlowReader(timeout_s=0.5))
    try:
        assert [device.driver_override for device in scan(sysfs, tree.host).devices] == [None, None]
        # Patience with a reader whose process starts slowly on a busy machine.
        wait_until(lambda: not scan(sysfs, tree.host, with_locked=True).devices[0].is_locked)
        first, second = scan(sysfs, tree.host, with_locked=True).devices
    finally:
        sysfs.close()
    assert (first.driver_override, first.vf_count, first.is_locked) == ("vfio-pci", 2, False)
    assert (second.driver_override, second.vf_count, second.is_locked) == (None, 0, True)


# --- configuration space


def test_configuration_space_is_asked_only_when_it_is_wanted(tree: Tree) -> None:
    (tree.add("3b", group=65) / "config").write_bytes(b"\xde\x10" + bytes(62))
    (tree.add("9b", group=70) / "config").write_bytes(b"\xff" * 64)
    sysfs = tree.sysfs()
    try:
        inventory = scan(sysfs, tree.host, with_config=True)
    finally:
        sysfs.close()
    assert inventory.config == {at("3b"): ConfigState.ANSWERS, at("9b"): ConfigState.GONE}
