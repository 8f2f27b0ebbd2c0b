"""What belongs on a VFIO driver, and the steps that bring it there; pure values in and out."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodelib.inventory import Inventory
from nodelib.pci import PciDevice
from tests.nodelib.samples import PROPERTY, at, audio, bridge, gpu, look, nic, nvswitch
from vfio_manager.modalias import DriverChoice
from vfio_manager.plan import Plan, plan_bind, plan_release
from vfio_manager.selection import targets
from vfio_manager.settings import Settings, SwitchPolicy
from vfio_manager.steps import Bind, ForbidD3cold, KeepAwake, Probe, SetDriverOverride, Step, Unbind

CHOICE = DriverChoice(None, (), frozenset({"vfio-pci", "nvidia", "nvgrace_gpu_vfio_pci"}))
NVIDIA = {"driver": "nvidia"}
HOST_AUDIO = {"driver": "snd_hda_intel"}


def addresses(inventory: Inventory, settings: Settings | None = None) -> list[str]:
    """The targets as tests write them: `3b.1` for 0000:3b:00.1."""
    found = (device.address for device in targets(inventory, settings or Settings()))
    return [f"{a.bus:02x}.{a.function}" if not a.device else str(a) for a in found]


def plan(inventory: Inventory, settings: Settings | None = None, choice: DriverChoice = CHOICE) -> Plan:
    return plan_bind(inventory, settings or Settings(), choice)


def texts(planned: Plan) -> list[str]:
    return [str(step) for step in planned.steps]


# --- what belongs on a VFIO driver


def test_every_function_of_a_gpus_slot_goes_with_it_whatever_its_group() -> None:
    # facts/field-problems.md, row 6
    functions = [gpu("3b", 65, **NVIDIA), *(audio(f"3b.{number}", 65 + number, **HOST_AUDIO) for number in (1, 2, 3))]
    assert addresses(look(*functions)) == ["3b.0", "3b.1", "3b.2", "3b.3"]


def test_other_nvidia_endpoints_of_a_gpus_group_go_with_it() -> None:
    # facts/field-problems.md, rows 6 and 7
    inventory = look(gpu("3d", 12), gpu("3e", 12), audio("3f", 12), audio("40", 13), bridge("3c", 12))
    assert addresses(inventory) == ["3d.0", "3e.0", "3f.0"]


def test_a_port_is_never_bound_not_even_nvidias_own() -> None:
    # Grace has PCIe root ports with NVIDIA's vendor id
    assert addresses(look(gpu("3b", 65), bridge("3a", 65, vendor=0x10DE), bridge("3b.1", 66, vendor=0x10DE))) == [
        "3b.0"
    ]


def test_a_device_of_another_vendor_goes_along_only_if_it_is_named() -> None:
    inventory = look(gpu("3b", 65), nic("3c", 65), nic("3d", 65), nic("3e", 66))
    assert addresses(inventory) == ["3b.0"]
    allowed = Settings(allowed_group_members=frozenset({at("3d"), at("3e")}))
    assert addresses(inventory, allowed) == ["3b.0", "3d.0"]


def test_an_audio_card_without_a_gpu_is_left_alone() -> None:
    assert addresses(look(audio("40", 13, **HOST_AUDIO))) == []


@pytest.mark.parametrize(
    ("policy", "bound"),
    [
        (SwitchPolicy.AUTO, ["07.0", "08.0", "09.0"]),
        (SwitchPolicy.ALWAYS, ["07.0", "08.0", "09.0", "0a.0"]),
        (SwitchPolicy.NEVER, []),
    ],
)
def test_nvswitches_are_bound_as_the_policy_says(policy: SwitchPolicy, bound: list[str]) -> None:
    # facts/field-problems.md, row 33; DESIGN, section 4
    inventory = look(
        nvswitch("07", 7, driver=None),
        nvswitch("08", 8, driver="vfio-pci"),
        nvswitch("09", 9, driver="nvgrace_gpu_vfio_pci"),
        nvswitch("0a", 10, driver="nvidia-nvswitch"),
    )
    assert addresses(inventory, Settings(nvswitches=policy)) == bound


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("auto", SwitchPolicy.AUTO),
        (" Always ", SwitchPolicy.ALWAYS),
        ("never", SwitchPolicy.NEVER),
        ("true", SwitchPolicy.ALWAYS),
        ("false", SwitchPolicy.NEVER),
        ("1", SwitchPolicy.ALWAYS),
        ("0", SwitchPolicy.NEVER),
        ("", SwitchPolicy.NEVER),
    ],
)
def test_the_yes_and_no_of_existing_manifests_is_understood(text: str, policy: SwitchPolicy) -> None:
    # facts/labels-and-settings.md, BIND_NVSWITCHES
    assert SwitchPolicy.parse(text) is policy


def test_virtual_functions_are_no_gpus_and_are_bound_only_when_asked() -> None:
    # facts/field-problems.md, row 40. The first two share the slot or the group with the GPU.
    of_card = {"physical_function": at("3b"), "driver": "nvidia"}
    inventory = look(
        gpu("3b", 65, **NVIDIA), gpu("3b.4", 66, **of_card), gpu("3c", 65, **of_card), gpu("3d", 67, **of_card)
    )
    assert addresses(inventory) == ["3b.0"]
    assert addresses(inventory, Settings(include_vfs=True)) == ["3b.0", "3b.4", "3c.0", "3d.0"]


def test_one_device_takes_along_its_slot_and_its_group_and_nothing_else() -> None:
    inventory = look(gpu("3b", 65), audio("3b.1", 66), gpu("3d", 65), nvswitch("07", 7), gpu("86", 93))
    assert addresses(inventory, Settings(only=frozenset({at("3b")}))) == ["3b.0", "3b.1", "3d.0"]
    assert addresses(inventory, Settings(only=frozenset({at("3b.1"), at("86")}))) == ["3b.0", "3b.1", "86.0"]
    by_name = Settings(only=frozenset({at("07")}), nvswitches=SwitchPolicy.NEVER)
    assert addresses(inventory, by_name) == ["07.0"]


# --- the steps


def test_the_steps_of_one_function_are_in_the_order_that_the_kernel_needs() -> None:
    # DESIGN, section 4: the bind itself resets power/control, so that comes last
    function = gpu("3b", 65, driver="nvidia", power_control="auto", d3cold_allowed=True)
    assert texts(plan(look(function))) == [
        "forbid D3cold for 0000:3b:00.0",
        "set driver_override of 0000:3b:00.0 to vfio-pci",
        "unbind 0000:3b:00.0 from nvidia",
        "bind 0000:3b:00.0 to vfio-pci",
        "keep 0000:3b:00.0 awake",
    ]


def test_a_function_on_another_vfio_driver_is_first_looked_at_for_a_vm() -> None:
    function = gpu("3b", 65, driver_override="vfio-pci", power_control="on", d3cold_allowed=True)
    assert texts(plan(look(function), choice=replace(CHOICE, forced="nvgrace_gpu_vfio_pci"))) == [
        "check that 0000:3b:00.0 is idle",
        "forbid D3cold for 0000:3b:00.0",
        "set driver_override of 0000:3b:00.0 to nvgrace_gpu_vfio_pci",
        "unbind 0000:3b:00.0 from vfio-pci",
        "bind 0000:3b:00.0 to nvgrace_gpu_vfio_pci",
        "keep 0000:3b:00.0 awake",
    ]


def test_what_a_kernel_lacks_or_what_is_right_already_is_no_step() -> None:
    assert texts(plan(look(gpu("3b", 65, driver=None, driver_override="vfio-pci")))) == [
        "bind 0000:3b:00.0 to vfio-pci"
    ]


def test_a_bound_device_that_may_sleep_is_mended_without_being_unbound() -> None:
    # facts/field-problems.md, row 20
    function = gpu("3b", 65, power_control="auto", d3cold_allowed=True)
    assert texts(plan(look(function))) == [
        "check that 0000:3b:00.0 is idle",
        "forbid D3cold for 0000:3b:00.0",
        "keep 0000:3b:00.0 awake",
    ]


def test_already_right_is_nothing_to_do() -> None:
    # facts/field-problems.md, row 13
    right = gpu("3b", 65, driver_override="vfio-pci", power_control="on", d3cold_allowed=False)
    assert plan(look(right, audio("3b.1", 65))) == Plan()


@pytest.mark.parametrize("spelling", ["vfio_pci", "vfio-pci"])
def test_dash_and_underscore_are_the_same_when_compared_and_not_when_written(spelling: str) -> None:
    # facts/field-problems.md, row 32
    on_it = look(gpu("3b", 65, driver="vfio-pci"))
    assert plan(on_it, choice=replace(CHOICE, forced=spelling)) == Plan()
    overridden = look(gpu("3b", 65, driver=None, driver_override="nvgrace-gpu-vfio-pci"))
    assert texts(plan(overridden, choice=replace(CHOICE, forced="nvgrace_gpu_vfio_pci"))) == [
        "bind 0000:3b:00.0 to nvgrace_gpu_vfio_pci"
    ]
    fresh = look(gpu("3b", 65, driver=None))
    assert texts(plan(fresh, choice=replace(CHOICE, forced=spelling)))[0].endswith(" to vfio-pci")


def test_release_lifts_the_override_and_lets_the_kernel_choose() -> None:
    inventory = look(gpu("3b", 65, driver_override="vfio-pci"), gpu("86", 93, **NVIDIA), gpu("87", 94, driver=None))
    assert texts(plan_release(inventory, Settings())) == [
        "check that 0000:3b:00.0 is idle",
        "clear driver_override of 0000:3b:00.0",
        "unbind 0000:3b:00.0 from vfio-pci",
        "let the kernel probe drivers for 0000:3b:00.0",
    ]


# --- the second round


def functions() -> st.SearchStrategy[tuple[PciDevice, ...]]:
    """Up to eight functions of any kind, group, driver, override and power setting."""
    one = st.tuples(
        st.sampled_from([gpu, nvswitch, audio, nic, bridge]),
        st.integers(0, 3),
        st.sampled_from([None, 65, 66, 67]),
        st.sampled_from([None, "vfio-pci", "nvidia", "pci-stub"]),
        st.sampled_from([None, "vfio-pci", "vfio_pci", "nvidia"]),
        st.sampled_from([None, "on", "auto"]),
        st.sampled_from([None, True, False]),
        st.integers(0, 1),
    )

    def build(rows: Iterable[tuple[object, ...]]) -> tuple[PciDevice, ...]:
        made = []
        for bus, (kind, number, group, driver, override, power, d3cold, enable) in enumerate(rows):
            fields = {"driver": driver, "driver_override": override, "enable": enable}
            fields |= {"power_control": power, "d3cold_allowed": d3cold}
            made.append(kind(f"{bus // 2:02x}.{4 * (bus % 2) + int(str(number))}", group, **fields))  # type: ignore[operator] # one of the builders above
        return tuple(made)

    return st.lists(one, max_size=8).map(build)


def after(device: PciDevice, step: Step) -> PciDevice:
    """What a kernel without faults makes of *step*."""
    match step:
        case ForbidD3cold():
            return replace(device, d3cold_allowed=False)
        case SetDriverOverride(_, driver):
            return replace(device, driver_override=driver)
        case Unbind(_, driver):
            assert device.driver == driver, "unbound from a driver that does not hold it"
            return replace(device, driver=None, has_vfio_dev=False)
        case Bind(_, driver):
            assert device.driver is None, "bound while it has a driver"
            assert device.driver_override is not None
            asleep = None if device.power_control is None else "auto"
            return replace(device, driver=driver, has_vfio_dev=True, power_control=asleep)
        case KeepAwake():
            return replace(device, power_control="on")
        case _:
            return device


@PROPERTY
@given(functions())
def test_the_second_plan_is_empty_and_has_the_same_refusals(devices: tuple[PciDevice, ...]) -> None:
    # DESIGN, section 2: every planner's test
    first = plan(look(*devices))
    ours = {device.address: device for device in devices}
    for step in first.device_steps:
        ours[step.address] = after(ours[step.address], step)
    second = plan(look(*ours.values()))
    assert second.steps == ()
    assert set(second.refusals) <= set(first.refusals)


@PROPERTY
@given(functions())
def test_no_step_is_planned_for_a_device_that_must_not_be_touched(devices: tuple[PciDevice, ...]) -> None:
    inventory = look(*devices)
    busy = {d.iommu_group for d in devices if d.is_on_vfio_driver and d.enable}
    for planned in (plan(inventory), plan_release(inventory, Settings())):
        for step in planned.device_steps:
            device = inventory.by_address[step.address]
            assert device.vendor == 0x10DE
            assert not device.is_bridge
            assert device.iommu_group not in busy or device.iommu_group is None
            assert not isinstance(step, Probe) or device.is_on_vfio_driver
