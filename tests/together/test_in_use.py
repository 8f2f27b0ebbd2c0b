"""A function leaves its IOMMU group between the list and the look: each agent takes the answer that is safe for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cc_manager.gpu.access import Access
from device_plugin.reconcile import is_held
from nodelib.errors import DeviceBusy, DeviceError
from nodelib.node import Node
from nodelib.scan import scan
from nodelib.sysfs import Sysfs
from nodelib.vfio import AssignableDevice, Naming, assignable_devices
from tests.nodelib.samples import Tree, at
from vfio_manager.apply import apply
from vfio_manager.steps import CheckIdle

GPU, AUDIO = at("3b"), at("3b.1")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """A GPU alone in its group."""
    tree = Tree(tmp_path)
    tree.add("3b", group=65, driver="vfio-pci")
    return tree


@pytest.fixture
def sysfs(tree: Tree) -> Iterator[Sysfs]:
    sysfs = tree.sysfs()
    yield sysfs
    sysfs.close()


def list_a_member_that_is_gone(tree: Tree) -> None:
    (tree.sys / "kernel/iommu_groups/65/devices" / str(AUDIO)).symlink_to(tree.folder("3b.1"))


@pytest.fixture
def plugin_device(tree: Tree, sysfs: Sysfs) -> AssignableDevice:
    """What the device plugin advertised while the GPU was alone."""
    (device,) = assignable_devices(scan(sysfs, tree.host), Naming())
    return device


def cc_manager(sysfs: Sysfs, tree: Tree) -> None:
    Access(Node(tree.host, sysfs, lambda *_: pytest.fail("nobody waits for events"))).check_idle(GPU)


def test_cc_manager_resets_nothing_whose_neighbour_cannot_be_asked(tree: Tree, sysfs: Sysfs) -> None:
    cc_manager(sysfs, tree)
    list_a_member_that_is_gone(tree)
    with pytest.raises(DeviceError, match=f"^{GPU}: whether it is in use cannot be told: {AUDIO}, of its IOMMU group"):
        cc_manager(sysfs, tree)


def test_vfio_manager_goes_on_for_what_left_is_in_no_vm(tree: Tree, sysfs: Sysfs) -> None:
    list_a_member_that_is_gone(tree)
    apply(CheckIdle(GPU), sysfs, 1.0)


def test_the_device_plugin_takes_it_for_held(tree: Tree, sysfs: Sysfs, plugin_device: AssignableDevice) -> None:
    assert not is_held(sysfs, plugin_device)
    list_a_member_that_is_gone(tree)
    assert is_held(sysfs, plugin_device)


def test_a_group_of_which_nothing_is_left_is_held_too(
    tree: Tree, sysfs: Sysfs, plugin_device: AssignableDevice
) -> None:
    (tree.sys / "kernel/iommu_groups/65/devices" / str(GPU)).unlink()
    assert is_held(sysfs, plugin_device)


def test_an_open_neighbour_holds_all_three_agents_off(
    tree: Tree, sysfs: Sysfs, plugin_device: AssignableDevice
) -> None:
    tree.add("3b.1", group=65, driver="vfio-pci", enable="1")
    with pytest.raises(DeviceBusy, match=f"a virtual machine has {AUDIO} open"):
        cc_manager(sysfs, tree)
    with pytest.raises(DeviceBusy, match=f"opened {AUDIO}, of the same IOMMU group, just now"):
        apply(CheckIdle(GPU), sysfs, 1.0)
    assert is_held(sysfs, plugin_device)
