"""Who of an IOMMU group has functions open now, read anew: three agents ask it before they act."""

from nodelib.errors import DeviceGone
from nodelib.iommu import GroupUse
from nodelib.sysfs import Sysfs
from tests.nodelib.samples import Tree, at

GPU, AUDIO = at("3b"), at("3b.1")


def test_the_open_functions_of_a_group_are_named(tree: Tree) -> None:
    tree.add("3b", group=65, driver="vfio-pci")
    tree.add("3b.1", group=65, driver="vfio-pci", enable="1")
    assert tree.sysfs().group_use(65) == GroupUse(read=(GPU, AUDIO), open=(AUDIO,))


def test_a_function_that_is_asked_for_comes_first_and_counts_once(tree: Tree) -> None:
    for where in ("3b", "3b.1"):
        tree.add(where, group=65, driver="vfio-pci", enable="1")
    assert tree.sysfs().group_use(65, AUDIO).open == (AUDIO, GPU)


def test_a_function_without_a_group_is_asked_alone(tree: Tree) -> None:
    tree.add("3b", driver="vfio-pci", enable="1")
    assert tree.sysfs().group_use(None, GPU) == GroupUse(read=(GPU,), open=(GPU,))


def test_a_function_that_left_its_groups_folder_is_asked_all_the_same(tree: Tree) -> None:
    tree.add("3b", driver="vfio-pci", enable="1")
    tree.add("3b.1", group=65, driver="vfio-pci")
    assert tree.sysfs().group_use(65, GPU).open == (GPU,)


def test_a_member_that_vanishes_in_between_is_told_apart_from_one_that_is_idle(tree: Tree) -> None:
    tree.add("3b", group=65, driver="vfio-pci")
    (tree.sys / "kernel/iommu_groups/65/devices" / str(AUDIO)).symlink_to(tree.folder("3b.1"))
    use = tree.sysfs().group_use(65, GPU)
    assert (use.read, use.open) == ((GPU,), ())
    assert [(type(error), error.address) for error in use.unread] == [(DeviceGone, AUDIO)]


def test_a_member_that_cannot_be_read_is_told(tree: Tree) -> None:
    tree.add("3b", group=65, pci_class="what?")
    (error,) = tree.sysfs().group_use(65).unread
    assert "class makes no sense" in error.reason


def test_a_group_that_is_not_there_has_nobody(tree: Tree) -> None:
    assert Sysfs(tree.host).group_use(65) == GroupUse()
