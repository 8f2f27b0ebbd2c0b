"""What is to be advertised, and what the CDI rule holds back."""

import pytest

from device_plugin.inventory import Devices, by_resource, hold_back, summary
from nodelib.cdi import specs_for
from nodelib.problem import Problem
from nodelib.vfio import Naming, assignable_devices
from tests.nodelib.samples import gpu, look, nvswitch

BROKEN = Problem("cdi-broken", "broken CDI spec /etc/cdi/x.yaml", "mend it")


def devices(naming: Naming | None = None) -> Devices:
    return assignable_devices(look(gpu("3b", 65), gpu("5e", 66), nvswitch("83", 70)), naming or Naming())


def resolved(found: Devices) -> dict[str, tuple[str, ...]]:
    return {f"{spec.kind}={device.name}": device.nodes for spec in specs_for(found) for device in spec.devices}


def test_devices_are_counted_under_their_resource() -> None:
    assert {str(name): [d.id for d in found] for name, found in by_resource(devices()).items()} == {
        "nvidia.com/nvswitch": ["70"],
        "nvidia.com/pgpu": ["65", "66"],
    }


def test_two_models_under_one_alias_are_one_resource() -> None:
    mixed = look(gpu("3b", 65), gpu("5e", 66, device=0x2901, name="GB100 [B200]"))
    assert [str(name) for name in by_resource(assignable_devices(mixed, Naming()))] == ["nvidia.com/pgpu"]
    per_model = by_resource(assignable_devices(mixed, Naming(gpu_alias="")))
    assert [str(name) for name in per_model] == ["nvidia.com/GB100_B200", "nvidia.com/GH100_H200_SXM_141GB"]


def test_a_model_that_the_database_lacks_gets_a_name_from_its_id() -> None:
    unknown = look(gpu("3b", 65, device=0x2FFF, name=None), nvswitch("83", 70, device=0x2FFE, name=None))
    named = by_resource(assignable_devices(unknown, Naming(gpu_alias="", nvswitch_alias="")))
    assert [str(name) for name in named] == ["nvidia.com/GPU_2FFF", "nvidia.com/NVSWITCH_2FFE"]


def test_a_device_whose_name_resolves_is_left_as_it_is() -> None:
    assert hold_back(devices(), resolved(devices())) == devices()


def test_a_device_without_a_cdi_name_is_held_back_and_the_others_are_not() -> None:
    names = resolved(devices())
    del names["nvidia.com/pgpu=65"]
    first, second, switch = hold_back(devices(), names)
    assert [problem.code for problem in first.problems] == ["cdi-unresolved"]
    assert "nvidia.com/pgpu=65" in first.problems[0].text
    assert second.is_healthy
    assert switch.is_healthy


def test_a_name_that_stands_for_another_devices_node_holds_the_device_back() -> None:
    (device, *_) = hold_back(devices(), resolved(devices()) | {"nvidia.com/pgpu=65": ("/dev/vfio/66",)})
    assert str(device.problems[0]).startswith(
        "the CDI name nvidia.com/pgpu=65 stands for /dev/vfio/66, and must for /dev/vfio/65"
    )


@pytest.mark.parametrize("extra", ["/dev/vfio/vfio", "/dev/vfio/66"])
def test_a_name_that_stands_for_a_node_too_many_holds_the_device_back(extra: str) -> None:
    """Kata plugs each node: one more is another tenant's GPU, or no device at all and the pod fails."""
    both = resolved(devices()) | {"nvidia.com/pgpu=65": ("/dev/vfio/65", extra)}
    (device, *_) = hold_back(devices(), both)
    assert [problem.code for problem in device.problems] == ["cdi-stale"]
    assert extra in str(device.problems[0])


def test_one_broken_spec_holds_every_device_back_and_is_named() -> None:
    held = hold_back(devices(), resolved(devices()), [BROKEN])
    assert all(device.problems == (BROKEN,) for device in held)


def test_an_unbound_device_keeps_the_reason_that_helps() -> None:
    (unbound,) = assignable_devices(look(gpu("3b", 65, driver=None)), Naming())
    (held,) = hold_back([unbound], {}, [BROKEN])
    assert [problem.code for problem in held.problems] == ["not-bound"]


def test_a_summary_counts_what_matters() -> None:
    found = assignable_devices(look(gpu("3b", 65, enable=1), gpu("5e", 66, driver=None)), Naming())
    assert summary(found) == "2 devices, 1 healthy, 1 in use"
    assert summary(found[:1]) == "1 device, 1 healthy, 1 in use"
    assert summary(()) == "no device"
