"""One look at the node, and what a daemon carries from one to the next."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodelib.inventory import DeviceFault, Inventory, is_in_use
from nodelib.iommu import IommuGroup
from nodelib.pci import PciDevice
from tests.nodelib.samples import PROPERTY, at, audio, gpu, look, nic, nvswitch

NODE = (gpu("01", 1), audio("01.1", 1), gpu("02", 2), nvswitch("03", 3), nic("04", 4, driver=None))


def test_a_look_finds_its_parts_by_kind_address_and_group() -> None:
    inventory = look(*NODE)
    assert inventory.gpus == (NODE[0], NODE[2])
    assert inventory.nvswitches == (NODE[3],)
    assert inventory.by_address[at("01.1")] == NODE[1]
    group = inventory.group(1)
    assert group is not None
    assert inventory.members_of(group) == NODE[:2]
    assert inventory.group(9) is None
    assert inventory.group(None) is None


def test_a_member_that_could_not_be_read_is_left_out_of_a_groups_devices() -> None:
    group = IommuGroup(1, (at("01"), at("01.1")))
    assert Inventory(devices=(NODE[0],), groups=(group,)).members_of(group) == (NODE[0],)


def test_a_fault_reads_as_the_address_and_the_reason() -> None:
    assert str(DeviceFault("0000:01:00.0", "vendor cannot be read")) == "0000:01:00.0: vendor cannot be read"


# What is remembered. Field problem 2.


def test_a_gpu_that_falls_off_the_bus_is_remembered_until_it_is_back() -> None:
    whole = look(*NODE)
    without = look(*NODE[2:]).remembering(whole)
    assert without.absent == (NODE[0],)
    still_without = look(*NODE[2:]).remembering(without)
    assert still_without.absent == (NODE[0],)
    assert look(*NODE).remembering(still_without).absent == ()


def test_companions_and_other_vendors_devices_are_not_remembered() -> None:
    assert look(NODE[0], NODE[2]).remembering(look(*NODE)).absent == (NODE[3],)


def test_a_gpu_that_lost_its_group_is_leaving_and_known_with_it() -> None:
    """The kernel removes the group before the device."""
    leaving = look(gpu("01", None), *NODE[1:]).remembering(look(*NODE))
    assert leaving.absent == (NODE[0],)
    assert look(*NODE[1:]).remembering(leaving).absent == (NODE[0],)
    assert look(*NODE).remembering(leaving).absent == ()


def test_a_gpu_that_never_had_a_group_is_remembered_as_such() -> None:
    """Its position among the GPUs must not pass to another."""
    lonely = gpu("00", None)
    assert look(lonely, *NODE).remembering(look(lonely, *NODE)).absent == ()
    assert look(*NODE).remembering(look(lonely, *NODE)).absent == (lonely,)


def test_a_first_look_remembers_nothing() -> None:
    assert look(*NODE).remembering(Inventory()) == look(*NODE)


@PROPERTY
@given(st.lists(st.frozensets(st.sampled_from(NODE)), min_size=1, max_size=6))
def test_every_gpu_and_switch_ever_seen_is_either_here_or_absent(looks: list[frozenset[PciDevice]]) -> None:
    inventory = Inventory()
    seen: set[PciDevice] = set()
    for devices in looks:
        inventory = look(*devices).remembering(inventory)
        seen |= devices & {NODE[0], NODE[2], NODE[3]}
        here = set(inventory.gpus) | set(inventory.nvswitches)
        assert here | set(inventory.absent) == seen
        assert not here & set(inventory.absent)
        assert list(inventory.absent) == sorted(inventory.absent, key=lambda device: device.address)


# In use: DESIGN section 2.


@pytest.mark.parametrize(
    ("enable", "is_used"),
    [(0, False), (1, True), (2, True), (None, True)],  # what cannot be read counts as used
)
def test_a_gpu_on_vfio_is_in_use_while_it_is_enabled(enable: int | None, is_used: bool) -> None:
    device = gpu("01", 1, enable=enable)
    assert is_in_use(look(device), device) is is_used


def test_a_gpu_is_in_use_while_any_function_of_its_group_is() -> None:
    device = gpu("01", 1)
    assert is_in_use(look(device, audio("01.1", 1, enable=1)), device)


def test_another_group_in_use_does_not_matter() -> None:
    device = gpu("01", 1)
    assert not is_in_use(look(device, gpu("02", 2, enable=1)), device)


def test_enabled_by_another_driver_is_no_sign_of_a_vm() -> None:
    device = gpu("01", 1, driver="nvidia", enable=1)
    assert not is_in_use(look(device, audio("01.1", 1, driver="snd_hda_intel", enable=1)), device)


def test_a_gpu_without_a_group_is_judged_by_itself() -> None:
    device = gpu("01", None, enable=1)
    assert is_in_use(look(device), device)
    assert not is_in_use(look(gpu("01", None)), gpu("01", None))
