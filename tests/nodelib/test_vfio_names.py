"""Which names a device answers to, over any node. DESIGN section 3; field problems 7, 9, 11, 43."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from nodelib.inventory import DeviceFault, Inventory
from nodelib.names import is_device_name
from nodelib.nvidia import is_assignable_kind
from nodelib.pci import PciAddress, PciDevice
from nodelib.vfio import Naming, VfioMode, assignable_devices
from tests.nodelib.samples import PROPERTY, at, audio, gpu, look, nic, nvswitch


def test_a_device_also_answers_to_its_address_its_index_and_its_cdev() -> None:
    inventory = look(gpu("01", 60), gpu("02", 65, vfio_cdev="vfio3"), nvswitch("03", 70))
    devices = {device.id: set(device.further_names) for device in assignable_devices(inventory, Naming())}
    assert devices == {
        "60": {"0000:01:00.0", "0"},
        "65": {"0000:02:00.0", "1", "vfio3"},
        "70": {"0000:03:00.0"},  # NVSwitches have no index: facts/kubelet-cdi-kata-contract.md, 3
    }


def test_an_index_counts_unbound_gpus_and_not_virtual_functions() -> None:
    inventory = look(
        gpu("01", None, driver=None), gpu("02.1", 7, physical_function=at("02")), gpu("03", 60), gpu("04", 65)
    )
    assert "2" in {device.id: device.further_names for device in assignable_devices(inventory, Naming())}["65"]


def test_an_index_that_is_some_groups_number_is_no_name() -> None:
    """Field problem 43: a restarting pod could resolve its old id to somebody else's GPU."""
    inventory = look(gpu("01", 1), gpu("02", 65), extra_groups=(0,))
    assert {name for d in assignable_devices(inventory, Naming()) for name in d.further_names} == {
        "0000:01:00.0",
        "0000:02:00.0",
    }


def test_no_index_moves_when_a_gpu_falls_off_the_bus() -> None:
    earlier = look(gpu("01", 60), gpu("02", 65))
    later = look(gpu("02", 65)).remembering(earlier)
    names = {device.id: device.further_names for device in assignable_devices(later, Naming())}
    assert names == {"60": (), "65": ("0000:02:00.0", "1")}


def test_a_cdev_name_of_an_absent_gpu_is_not_given_to_the_next() -> None:
    """N of vfioN is handed out at bind time: a rebind may reuse it. DESIGN section 3: a name is never freed."""
    earlier = look(gpu("01", 60, vfio_cdev="vfio0"), gpu("02", 65, vfio_cdev="vfio1"))
    later = look(gpu("02", 65, vfio_cdev="vfio0")).remembering(earlier)
    assert {device.id: device.further_names for device in assignable_devices(later, Naming())}["65"] == (
        "0000:02:00.0",
        "1",
    )


# --- over any node


@st.composite
def nodes(draw: st.DrawFn) -> Inventory:
    """Nodes whose few group numbers, indices and cdev numbers meet as often as can be."""
    functions: list[PciDevice] = []
    groups = st.integers(-1, 9).map(lambda number: None if number < 0 else number)
    drivers = st.sampled_from(["vfio-pci", "vfio-pci", "vfio-pci", "vfio-pci", None, "nvidia"])
    cdevs = draw(st.permutations(range(10)))
    has_cdevs = draw(st.sampled_from([True, True, False]))
    for bus in range(draw(st.integers(2, 7))):
        make = draw(st.sampled_from([gpu, gpu, gpu, gpu, nvswitch, audio, nic]))
        device = make(f"{bus:02x}", draw(groups), driver=draw(drivers))
        if device.is_on_vfio_driver and has_cdevs and draw(st.sampled_from([True, True, True, False])):
            device = replace(device, vfio_cdev=f"vfio{cdevs[bus]}")
        if make is gpu and draw(st.booleans()):
            device = replace(device, device=0x2901, name="GB100 [B200]")
        functions.append(device)
    return look(*functions, extra_groups=draw(st.frozensets(st.integers(0, 9), max_size=3)))


NAMINGS = st.builds(
    Naming,
    gpu_alias=st.sampled_from(["pgpu", ""]),
    nvswitch_alias=st.sampled_from(["nvswitch", ""]),
    vfio_mode=st.sampled_from([VfioMode.AUTO, VfioMode.AUTO, VfioMode.IOMMUFD, VfioMode.LEGACY]),
)


def names_of(inventory: Inventory, naming: Naming) -> dict[tuple[str, str], tuple[PciAddress, ...]]:
    """Every qualified name that a spec could hold, and what it means."""
    return {
        (str(device.resource), name): device.addresses
        for device in assignable_devices(inventory, naming)
        for name in (device.id, *device.further_names)
    }


def lose_some(draw: st.DrawFn, inventory: Inventory) -> Inventory:
    """The same node some time later: some functions are gone or going, others took over the cdevs that became free."""
    lost = draw(st.frozensets(st.sampled_from(inventory.devices), min_size=1, max_size=3))
    cdevs = [device.vfio_cdev for device in inventory.devices if device in lost and device.vfio_cdev]
    are_rebound = draw(st.sampled_from([True, True, False]))
    are_leaving = draw(st.sampled_from([True, False, False]))  # the kernel takes the group away before the device
    here: list[PciDevice] = []
    for device in inventory.devices:
        if device not in lost:
            takes_over = are_rebound and device.vfio_cdev is not None and cdevs
            here.append(replace(device, vfio_cdev=cdevs.pop()) if takes_over else device)
        elif are_leaving:
            here.append(replace(device, iommu_group=None, driver=None, has_vfio_dev=False, vfio_cdev=None))
    return look(*here, extra_groups=inventory.group_numbers - {d.iommu_group for d in inventory.devices})


later_looks = st.composite(lose_some)


@PROPERTY
@given(nodes(), NAMINGS)
def test_every_group_with_a_gpu_or_switch_keeps_its_number_as_its_name(inventory: Inventory, naming: Naming) -> None:
    wanted = {str(d.iommu_group) for d in inventory.devices if is_assignable_kind(d) and d.iommu_group is not None}
    assert {device.id for device in assignable_devices(inventory, naming)} == wanted


@PROPERTY
@given(nodes(), NAMINGS, st.data())
def test_a_further_name_is_never_a_group_number_here_or_gone(
    inventory: Inventory, naming: Naming, data: st.DataObject
) -> None:
    """Field problem 43."""
    later = data.draw(later_looks(inventory)).remembering(inventory)
    taken = {str(number) for number in later.group_numbers} | {str(d.iommu_group) for d in later.absent}
    for device in assignable_devices(later, naming):
        assert not taken & set(device.further_names)


@PROPERTY
@given(nodes(), NAMINGS)
def test_no_name_stands_twice_in_a_resource_and_each_is_valid(inventory: Inventory, naming: Naming) -> None:
    """Field problem 7: two devices of one name make the whole spec invalid."""
    devices = assignable_devices(inventory, naming)
    names = [(device.resource, name) for device in devices for name in (device.id, *device.further_names)]
    assert len(names) == len(set(names))
    assert all(is_device_name(name) for _, name in names)


@PROPERTY
@given(nodes(), NAMINGS, st.data())
def test_no_name_passes_to_another_device_when_devices_disappear(
    inventory: Inventory, naming: Naming, data: st.DataObject
) -> None:
    later = data.draw(later_looks(inventory)).remembering(inventory)
    before, after = names_of(inventory, naming), names_of(later, naming)
    for name in before.keys() & after.keys():
        # A device may have lost a function of its group, or be all that is left of it.
        assert set(after[name]) <= set(before[name])


@PROPERTY
@given(nodes(), NAMINGS)
def test_no_device_mixes_the_two_interfaces_nor_lists_their_containers(inventory: Inventory, naming: Naming) -> None:
    """Field problem 9."""
    for device in assignable_devices(inventory, naming):
        legacy = f"/dev/vfio/{device.id}"
        cdevs = tuple(f"/dev/vfio/devices/{f.vfio_cdev}" for f in device.functions if f.vfio_cdev)
        assert (device.spec_nodes, device.allocate_nodes) in [
            ((legacy,), ("/dev/vfio/vfio", legacy)),
            (cdevs, cdevs),
        ]


@PROPERTY
@given(nodes(), NAMINGS)
def test_the_same_node_gives_the_same_answer(inventory: Inventory, naming: Naming) -> None:
    assert assignable_devices(inventory, naming) == assignable_devices(replace(inventory), naming)


def test_field_43_behind_a_gpu_that_cannot_be_read_no_gpu_has_an_index() -> None:
    """It may be a GPU or not: an index that is counted without it could be another device's tomorrow."""
    first, unread, last = gpu("3b", 65), gpu("5e", 66), gpu("86", 93)
    whole = look(first, unread, last)
    before = names_of(whole, Naming())
    partly = replace(look(first, last), faults=(DeviceFault(str(unread.address), "class cannot be read"),))
    after = names_of(partly, Naming())
    assert {("nvidia.com/pgpu", index) for index in "012"} <= set(before)
    assert {name for _, name in after} & set("012") == {"0"}
    assert ("nvidia.com/pgpu", "93") in after, "the others keep their ids"
