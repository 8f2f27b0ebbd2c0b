"""Why an assignable device is not healthy. Field problems 2, 6, 9, 10, 20, 44."""

import pytest

from nodelib import health
from nodelib.pci import ConfigState, PciDevice
from tests.nodelib.samples import at, gpu, look, nvswitch


def codes(*functions: PciDevice, cdevs: bool, **fields: object) -> list[str]:
    inventory = look(*functions, **fields)  # type: ignore[arg-type] # see samples
    return [problem.code for problem in health.node_problems(65, functions, inventory, cdevs=cdevs)]


def test_a_gpu_on_vfio_with_its_node_is_well() -> None:
    assert codes(gpu("01", 65), cdevs=False) == []
    assert codes(gpu("01", 65, vfio_cdev="vfio3"), cdevs=True, vfio_groups=()) == []


def test_a_gpu_on_no_driver_is_told_how_to_be_bound() -> None:
    inventory = look(gpu("01", 65, driver=None))
    (problem,) = health.node_problems(65, inventory.devices, inventory, cdevs=False)
    assert problem.code == "not-bound"
    assert problem.text == "0000:01:00.0 has no driver, and must be on a VFIO driver"
    assert problem.remedy == "run: vfio-manager bind --device 0000:01:00.0"


def test_a_gpu_on_pci_stub_has_no_node_although_its_group_is_viable() -> None:
    inventory = look(gpu("01", 65, driver="pci-stub"))
    (problem,) = health.node_problems(65, inventory.devices, inventory, cdevs=False)
    assert problem.code == "not-bound"
    assert problem.text == "0000:01:00.0 is on pci-stub, and must be on a VFIO driver"


def test_a_driver_that_holds_the_group_up_is_not_reported_twice() -> None:
    assert codes(gpu("01", 65, driver="nvidia"), cdevs=False, vfio_groups=()) == []


def test_of_two_gpus_in_a_group_only_the_unbound_one_is_named() -> None:
    inventory = look(gpu("01", 65), gpu("02", 65, driver=None))
    (problem,) = health.node_problems(65, inventory.devices, inventory, cdevs=False)
    assert "0000:02:00.0" in problem.text


def test_a_missing_group_node_says_what_the_kernel_needs() -> None:
    inventory = look(gpu("01", 65), vfio_groups=())
    (problem,) = health.node_problems(65, inventory.devices, inventory, cdevs=False)
    assert problem.code == "no-group-node"
    assert "CONFIG_VFIO_GROUP" in problem.remedy


def test_each_gpu_without_a_device_node_says_what_the_kernel_needs() -> None:
    inventory = look(gpu("01", 65, vfio_cdev="vfio3"), gpu("02", 65), nvswitch("03", 65))
    problems = health.node_problems(65, inventory.devices, inventory, cdevs=True)
    assert [p.code for p in problems] == ["no-cdev", "no-cdev"]
    assert "0000:02:00.0" in problems[0].text
    assert "0000:03:00.0" in problems[1].text
    assert "CONFIG_VFIO_DEVICE_CDEV" in problems[0].remedy


@pytest.mark.parametrize(
    ("cdevs", "dev_vfio", "expected"),
    [
        (False, None, []),  # the host's /dev is not to be seen: unknown is not unhealthy
        (True, None, []),
        (False, ["65", "vfio"], []),
        (True, ["devices/vfio3"], []),
        (False, [], ["no-node-file"]),
        (False, ["devices/vfio3"], ["no-node-file"]),
        (True, ["65", "vfio"], ["no-node-file"]),
    ],
)
def test_the_file_must_be_there_too_where_the_hosts_dev_is_visible(
    cdevs: bool, dev_vfio: list[str] | None, expected: list[str]
) -> None:
    """DESIGN section 3: never judged by the container's own /dev."""
    assert codes(gpu("01", 65, vfio_cdev="vfio3"), cdevs=cdevs, dev_vfio=dev_vfio) == expected


def test_a_missing_file_is_named_with_its_path() -> None:
    inventory = look(gpu("01", 65), dev_vfio=())
    (problem,) = health.node_problems(65, inventory.devices, inventory, cdevs=False)
    assert "/dev/vfio/65 is missing on the host" in problem.text


def test_a_gpu_that_left_the_bus_is_named_by_its_group_alone() -> None:
    inventory = look(absent=(gpu("01", 65), gpu("02", 66)))
    (problem,) = health.missing_functions(65, inventory)
    assert problem.code == "absent"
    assert "0000:01:00.0 left the bus" in problem.text


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (ConfigState.GONE, "config-gone"),
        (ConfigState.HUNG, "config-hung"),
        (ConfigState.UNREADABLE, "config-unreadable"),
    ],
)
def test_a_device_that_does_not_answer_is_named(state: ConfigState, code: str) -> None:
    device = gpu("01", 65)
    problem = health.config_problem(device, look(device, config={device.address: state}))
    assert problem is not None
    assert problem.code == code
    assert "0000:01:00.0" in problem.text


@pytest.mark.parametrize("state", [ConfigState.ANSWERS, ConfigState.UNREAD])
def test_a_device_that_answers_or_was_not_asked_has_no_problem(state: ConfigState) -> None:
    device = gpu("01", 65)
    assert health.config_problem(device, look(device, config={device.address: state})) is None
    assert health.config_problem(device, look(device, config={at("02"): ConfigState.GONE})) is None
