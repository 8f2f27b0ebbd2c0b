"""The contract between the agents. DESIGN section 3; field problems 4, 6 to 12, 32, 35, 36, 40, 43."""

import pytest

from nodelib.errors import InvalidValue
from nodelib.inventory import Inventory
from nodelib.pci import ConfigState
from nodelib.vfio import AssignableDevice, Naming, VfioMode, assignable_devices, uses_cdev, without_group
from tests.nodelib.samples import at, audio, bridge, gpu, look, nic, nvswitch

LEGACY = Naming(vfio_mode=VfioMode.LEGACY)
IOMMUFD = Naming(vfio_mode=VfioMode.IOMMUFD)
PER_MODEL = Naming(gpu_alias="", nvswitch_alias="")


def only(inventory: Inventory, naming: Naming = Naming()) -> AssignableDevice:  # noqa: B008 - frozen
    (device,) = assignable_devices(inventory, naming)
    return device


# --- the unit is the group


def test_a_gpu_is_given_away_as_its_group() -> None:
    device = only(look(gpu("3b", 65)))
    assert (device.id, str(device.resource)) == ("65", "nvidia.com/pgpu")
    assert device.addresses == (at("3b"),)
    assert device.is_healthy
    assert device.is_resolvable


def test_companions_and_bridges_ride_along_and_are_not_counted() -> None:
    """Field problem 8."""
    device = only(look(bridge("00", 65), gpu("3b", 65), audio("3b.1", 65), audio("3b.2", 65, pci_class=0x0C0330)))
    assert device.addresses == (at("3b"),)
    assert device.is_healthy


def test_several_gpus_and_switches_of_one_group_are_one_device() -> None:
    """Field problem 7."""
    inventory = look(gpu("01", 5, vfio_cdev="vfio0"), gpu("02", 5, vfio_cdev="vfio1"), nvswitch("03", 5))
    device = only(inventory, LEGACY)
    assert device.addresses == (at("01"), at("02"), at("03"))
    assert device.spec_nodes == ("/dev/vfio/5",)
    assert str(device.resource) == "nvidia.com/pgpu"
    assert {"0000:01:00.0", "0000:02:00.0", "0", "1"} <= set(device.further_names)


def test_a_gpu_decides_the_resource_of_its_group_wherever_it_sits() -> None:
    assert str(only(look(nvswitch("01", 5), gpu("02", 5))).resource) == "nvidia.com/pgpu"


def test_a_group_of_virtual_functions_or_of_companions_is_nothing_to_give_away() -> None:
    """Field problem 40."""
    inventory = look(gpu("01.1", 7, physical_function=at("01")), audio("02.1", 8), nic("03", 9))
    assert assignable_devices(inventory, Naming()) == ()


def test_devices_come_in_the_order_of_their_numbers() -> None:
    inventory = look(gpu("01", 100), gpu("02", 20), nvswitch("03", 3))
    assert [device.id for device in assignable_devices(inventory, Naming())] == ["3", "20", "100"]


def test_a_busy_or_unhealthy_device_stays_in_the_list() -> None:
    """Field problem 4: capacity must not shrink because a pod runs."""
    inventory = look(gpu("01", 1, enable=1), gpu("02", 2, driver="nvidia"), gpu("03", 3))
    devices = assignable_devices(inventory, Naming())
    assert [(d.id, d.in_use, d.is_healthy) for d in devices] == [
        ("1", True, True),
        ("2", False, False),
        ("3", False, True),
    ]


# --- names


def test_two_models_under_one_alias_are_one_resource() -> None:
    """Field problem 12."""
    inventory = look(gpu("01", 1), gpu("02", 2, device=0x2901, name="GB100 [B200]"))
    assert {str(d.resource) for d in assignable_devices(inventory, Naming())} == {"nvidia.com/pgpu"}


def test_an_empty_alias_means_one_resource_per_model() -> None:
    inventory = look(
        gpu("01", 1), nvswitch("02", 2), gpu("03", 3, device=0x2FFF, name=None), nvswitch("04", 4, name="")
    )
    assert [str(d.resource) for d in assignable_devices(inventory, PER_MODEL)] == [
        "nvidia.com/GH100_H200_SXM_141GB",
        "nvidia.com/GH100_H100_NVSWITCH",
        "nvidia.com/GPU_2FFF",
        "nvidia.com/NVSWITCH_22A3",
    ]


def test_an_alias_that_cannot_be_a_name_is_refused() -> None:
    with pytest.raises(InvalidValue):
        assignable_devices(look(gpu("01", 1)), Naming(gpu_alias="p/gpu"))


# --- device nodes


@pytest.mark.parametrize(
    ("cdevs", "mode", "expected"),
    [
        (("vfio0", "vfio1"), VfioMode.AUTO, True),
        (("vfio0", None), VfioMode.AUTO, False),
        ((None, None), VfioMode.AUTO, False),
        (("vfio0", "vfio1"), VfioMode.LEGACY, False),
        ((None, None), VfioMode.IOMMUFD, True),
    ],
)
def test_the_interface_is_decided_for_each_device(
    cdevs: tuple[str | None, ...], mode: VfioMode, expected: bool
) -> None:
    """Field problem 10."""
    assert uses_cdev([gpu(f"0{i}", 5, vfio_cdev=cdev) for i, cdev in enumerate(cdevs)], mode) is expected


def test_two_devices_of_one_node_may_use_different_interfaces() -> None:
    inventory = look(gpu("01", 1, vfio_cdev="vfio0"), gpu("02", 2))
    by_id = {device.id: device for device in assignable_devices(inventory, Naming())}
    assert by_id["1"].spec_nodes == by_id["1"].allocate_nodes == ("/dev/vfio/devices/vfio0",)
    assert by_id["2"].spec_nodes == ("/dev/vfio/2",)
    assert by_id["2"].allocate_nodes == ("/dev/vfio/vfio", "/dev/vfio/2")


def test_the_nodes_of_a_shared_group_are_the_cdevs_of_its_gpus_and_switches_only() -> None:
    inventory = look(
        gpu("01", 5, vfio_cdev="vfio0"), audio("01.1", 5, vfio_cdev="vfio1"), nvswitch("02", 5, vfio_cdev="vfio2")
    )
    device = only(inventory)
    assert device.spec_nodes == ("/dev/vfio/devices/vfio0", "/dev/vfio/devices/vfio2")
    assert "vfio1" not in device.further_names


def test_a_legacy_device_does_not_answer_to_its_cdev() -> None:
    assert "vfio0" not in only(look(gpu("01", 5, vfio_cdev="vfio0")), LEGACY).further_names


def test_iommufd_without_a_cdev_is_unhealthy_and_not_quietly_legacy() -> None:
    device = only(look(gpu("01", 5)), IOMMUFD)
    assert [problem.code for problem in device.problems] == ["no-cdev"]
    assert device.spec_nodes == device.allocate_nodes == ()
    assert not device.is_resolvable


# --- health


def test_the_functions_that_block_a_group_are_its_problems() -> None:
    device = only(look(gpu("01", 5, driver="nvidia"), audio("01.1", 5, driver="snd_hda_intel")))
    assert [problem.code for problem in device.problems] == ["foreign-driver", "foreign-driver"]


def test_a_gpu_on_pci_stub_is_not_healthy() -> None:
    assert not only(look(gpu("01", 5, driver="pci-stub"), vfio_groups=())).is_healthy


def test_a_device_that_is_only_resetting_keeps_its_names_and_nodes() -> None:
    inventory = look(gpu("01", 5), audio("01.1", 5), config={at("01.1"): ConfigState.HUNG})
    device = only(inventory)
    assert not device.is_healthy
    assert device.is_resolvable


def test_a_device_on_no_driver_cannot_be_resolved() -> None:
    assert not only(look(gpu("01", 5, driver=None))).is_resolvable


def test_an_absent_gpu_stays_in_the_list_unhealthy_under_its_old_id() -> None:
    """Field problem 2."""
    device = only(look().remembering(look(gpu("01", 65, numa_node=1))))
    assert (device.id, device.numa_node, device.in_use) == ("65", 1, False)
    assert [problem.code for problem in device.problems] == ["absent"]
    assert device.spec_nodes == device.further_names == ()


def test_an_absent_gpu_stays_in_the_list_although_its_audio_function_is_still_there() -> None:
    earlier = look(gpu("01", 65), audio("01.1", 65))
    device = only(look(audio("01.1", 65)).remembering(earlier))
    assert device.id == "65"
    assert [problem.code for problem in device.problems] == ["absent"]


def test_an_absent_gpu_makes_what_is_left_of_its_group_unhealthy() -> None:
    earlier = look(gpu("01", 5), gpu("02", 5))
    device = only(look(gpu("01", 5)).remembering(earlier))
    assert device.addresses == (at("01"),)
    assert [problem.code for problem in device.problems] == ["absent"]


@pytest.mark.parametrize(("nodes", "expected"), [((None,), None), ((0,), 0), ((None, 1), 1)])
def test_no_numa_hint_is_no_node(nodes: tuple[int | None, ...], expected: int | None) -> None:
    """Field problem 36."""
    assert only(look(*(gpu(f"0{i}", 5, numa_node=node) for i, node in enumerate(nodes)))).numa_node == expected


def test_a_gpu_in_no_group_is_reported_with_the_remedy() -> None:
    device = gpu("01", None, driver="nvidia")
    inventory = look(device, audio("01.1", None), nic("02", None), gpu("03", 3))
    assert [d.id for d in assignable_devices(inventory, Naming())] == ["3"]
    ((found, problem),) = without_group(inventory)
    assert found == device
    assert problem.code == "no-iommu"
    assert "on Intel boot with intel_iommu=on" in problem.remedy
