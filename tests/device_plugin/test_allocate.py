"""Which devices a request means, and what a container gets for them."""

from collections.abc import Sequence

import pytest

from device_plugin.allocate import AllocatePolicy, DeviceUnavailable, InvalidRequest, choose, give
from device_plugin.inventory import Devices
from device_plugin.settings import DeviceListStrategy, WhenHeld
from nodelib.vfio import AssignableDevice, Naming, VfioMode, assignable_devices
from tests.nodelib.samples import audio, gpu, look, nvswitch


def devices(*functions: object, naming: Naming | None = None) -> Devices:
    return assignable_devices(look(*functions), naming or Naming())  # type: ignore[arg-type] # samples of one kind


PAIR = devices(gpu("3b", 65), gpu("5e", 66))


SPECS, CDI_CRI = DeviceListStrategy.DEVICE_SPECS, DeviceListStrategy.CDI_CRI


def policy(strategy: DeviceListStrategy = SPECS, *, addresses: bool = False) -> AllocatePolicy:
    return AllocatePolicy(lambda _device: False, 0.0, WhenHeld.FAIL, strategy, addresses)


def nodes_of(devices: Sequence[AssignableDevice]) -> tuple[str, ...]:
    return give(tuple(devices), policy()).nodes


def ids(chosen: Sequence[Devices]) -> list[list[str]]:
    return [[device.id for device in container] for container in chosen]


def test_each_container_gets_its_devices_in_the_order_of_the_request() -> None:
    assert ids(choose([["66", "65"]], PAIR)) == [["66", "65"]]
    assert ids(choose([["66"], ["65"]], PAIR)) == [["66"], ["65"]]
    assert choose([], PAIR) == ()


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ([["67"]], "there is no device '67'"),
        ([["0000:3b:00.0"]], "there is no device '0000:3b:00.0'"),
        ([[""]], "there is no device ''"),
        ([["65", "65"]], "device '65' is asked for twice"),
        ([["65"], ["65"]], "device '65' is asked for twice"),
        ([[]], "the request names no device"),
        ([["65"], []], "the request names no device"),
        ([["65", "67"]], "there is no device '67'"),
    ],
)
def test_ids_that_cannot_be_meant_are_refused_by_name(request_: list[list[str]], reason: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        choose(request_, PAIR)
    assert str(refused.value) == reason


def test_an_unhealthy_device_is_refused_with_its_reason() -> None:
    (unbound,) = devices(gpu("3b", 65, driver=None))
    (problem,) = unbound.problems
    with pytest.raises(DeviceUnavailable) as refused:
        choose([["65"]], (unbound,))
    assert str(refused.value) == f"device nvidia.com/pgpu=65 (0000:3b:00.0) is unhealthy: {problem}"


def test_an_endless_id_is_refused_in_a_message_of_some_words() -> None:
    with pytest.raises(InvalidRequest) as refused:
        choose([["x" * 100_000]], PAIR)
    assert len(str(refused.value)) < 200


def test_a_legacy_group_comes_with_the_container_node_once() -> None:
    assert nodes_of(PAIR) == ("/dev/vfio/vfio", "/dev/vfio/65", "/dev/vfio/66")


def test_a_device_with_a_cdev_gets_that_and_nothing_of_the_legacy_interface() -> None:
    assert nodes_of(devices(gpu("3b", 65, vfio_cdev="vfio3"))) == ("/dev/vfio/devices/vfio3",)


def test_the_backend_is_chosen_for_each_device() -> None:
    mixed = devices(gpu("3b", 65, vfio_cdev="vfio3"), gpu("5e", 66))
    assert [nodes_of([device]) for device in mixed] == [
        ("/dev/vfio/devices/vfio3",),
        ("/dev/vfio/vfio", "/dev/vfio/66"),
    ]


def test_legacy_mode_ignores_cdevs() -> None:
    forced = devices(gpu("3b", 65, vfio_cdev="vfio3"), naming=Naming(vfio_mode=VfioMode.LEGACY))
    assert nodes_of(forced) == ("/dev/vfio/vfio", "/dev/vfio/65")


# --- what else a container is told


def test_nothing_but_nodes_is_given_unless_it_is_asked_for() -> None:
    given = give(PAIR, policy())
    assert (given.cdi_names, given.environment) == ((), {})


def test_cdi_names_are_given_beside_the_nodes_and_are_those_that_kata_looks_up() -> None:
    """A legacy device's spec has no /dev/vfio/vfio, without which nobody but Kata can use it."""
    given = give(PAIR, policy(CDI_CRI))
    assert given.cdi_names == ("nvidia.com/pgpu=65", "nvidia.com/pgpu=66")
    assert given.nodes == nodes_of(PAIR)


def test_addresses_are_in_the_variable_in_which_kubevirt_looks() -> None:
    shared = devices(gpu("3b", 65), gpu("5e", 65), gpu("83", 66))
    given = give(shared, policy(addresses=True))
    assert given.environment == {"PCI_RESOURCE_NVIDIA_COM_PGPU": "0000:3b:00.0,0000:5e:00.0,0000:83:00.0"}


def test_a_companion_is_no_address_to_attach() -> None:
    with_audio = devices(gpu("3b", 65), audio("3b.1", 65))
    assert give(with_audio, policy(addresses=True)).environment == {"PCI_RESOURCE_NVIDIA_COM_PGPU": "0000:3b:00.0"}


@pytest.mark.parametrize(
    ("naming", "variables"),
    [
        (Naming(gpu_alias=""), {"PCI_RESOURCE_NVIDIA_COM_GH100_H200_SXM_141GB"}),
        (Naming(gpu_alias="my-gpu"), {"PCI_RESOURCE_NVIDIA_COM_MY-GPU", "PCI_RESOURCE_NVIDIA_COM_MY_GPU"}),
        (Naming(gpu_alias="gpu_a"), {"PCI_RESOURCE_NVIDIA_COM_GPU_A"}),
    ],
)
def test_the_variable_follows_the_resources_name(naming: Naming, variables: set[str]) -> None:
    assert set(give(devices(gpu("3b", 65), naming=naming), policy(addresses=True)).environment) == variables


def test_switches_are_told_of_too() -> None:
    given = give(devices(nvswitch("07", 70)), policy(addresses=True))
    assert given.environment == {"PCI_RESOURCE_NVIDIA_COM_NVSWITCH": "0000:07:00.0"}
