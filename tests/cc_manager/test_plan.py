"""Deciding what a change of mode takes: values only."""

from dataclasses import replace

import pytest

from cc_manager.gpu.chips import BLACKWELL_GB1XX, HOPPER_GPU, NVSWITCH_GEN3, Part
from cc_manager.mode import CcMode, ModeBits
from cc_manager.observation import Observation
from cc_manager.plan import Reset, Stage, Verify, plan_transition
from cc_manager.settings import PpcieExit
from nodelib.pci import PciAddress, PciDevice
from nodelib.problem import Problem, Refusal

FIRST, SECOND, SWITCH = PciAddress(0, 0x1B, 0, 0), PciAddress(0, 0x1C, 0, 0), PciAddress(0, 7, 0, 0)
OFF, ON, DEVTOOLS, INVALID = ModeBits(0b00), ModeBits(0b01), ModeBits(0b11), ModeBits(0b10)
PPCIE = ModeBits(ppcie=True)


def seen(
    address: PciAddress,
    active: ModeBits | None,
    staged: ModeBits | None = None,
    *,
    part: Part | None = HOPPER_GPU,
    in_use: bool = False,
    problem: Problem | None = None,
) -> Observation:
    """One device; where nothing is said, what is staged is what is active."""
    device = PciDevice(address, 0x10DE, 0x2330, 0x030200)
    return Observation(device, part, in_use=in_use, active=active, staged=staged or active, problem=problem)


def switch(active: ModeBits) -> Observation:
    one = seen(SWITCH, active, part=NVSWITCH_GEN3)
    return replace(one, device=replace(one.device, device=0x22A3, pci_class=0x068000))


def test_field_34_all_devices_are_staged_then_all_reset_then_all_verified() -> None:
    plan = plan_transition([seen(FIRST, OFF), seen(SECOND, OFF)], CcMode.ON)
    assert plan.phases == (
        (Stage(FIRST, CcMode.ON), Stage(SECOND, CcMode.ON)),
        (Reset(FIRST), Reset(SECOND)),
        (Verify(FIRST, CcMode.ON), Verify(SECOND, CcMode.ON)),
    )


@pytest.mark.parametrize(("mode", "bits"), [(CcMode.OFF, OFF), (CcMode.ON, ON), (CcMode.DEVTOOLS, DEVTOOLS)])
def test_the_plan_is_empty_where_every_device_is_in_the_mode(mode: CcMode, bits: ModeBits) -> None:
    plan = plan_transition([seen(FIRST, bits), seen(SECOND, bits), switch(OFF)], mode)
    assert plan.is_done
    assert plan.steps == ()


def test_in_ppcie_the_switches_take_part() -> None:
    assert plan_transition([seen(FIRST, PPCIE), switch(PPCIE)], CcMode.PPCIE).is_done
    plan = plan_transition([seen(FIRST, PPCIE), switch(OFF)], CcMode.PPCIE)
    assert plan.steps == (Stage(SWITCH, CcMode.PPCIE), Reset(SWITCH), Verify(SWITCH, CcMode.PPCIE))


def test_a_switch_that_is_left_in_ppcie_is_put_aside_in_every_other_mode() -> None:
    plan = plan_transition([seen(FIRST, ON), switch(PPCIE)], CcMode.ON)
    assert [step.address for step in plan.steps] == [SWITCH] * 3


def test_field_18_two_of_three_gpus_in_another_mode_are_changed_and_the_third_is_left_alone() -> None:
    third = PciAddress(0, 0x1D, 0, 0)
    plan = plan_transition([seen(FIRST, OFF), seen(SECOND, ON), seen(third, OFF)], CcMode.ON)
    assert {step.address for step in plan.steps} == {FIRST, third}


@pytest.mark.parametrize("mode", [CcMode.OFF, CcMode.ON, CcMode.DEVTOOLS])
def test_field_18_the_invalid_state_is_in_no_mode_and_always_set_anew(mode: CcMode) -> None:
    plan = plan_transition([seen(FIRST, INVALID)], mode)
    assert plan.steps == (Stage(FIRST, mode), Reset(FIRST), Verify(FIRST, mode))


def test_field_41_knobs_left_behind_are_put_back_without_a_reset() -> None:
    plan = plan_transition([seen(FIRST, OFF, staged=ON), seen(SECOND, OFF)], CcMode.OFF)
    assert plan.phases == ((Stage(FIRST, CcMode.OFF),), (Verify(FIRST, CcMode.OFF),))


def test_a_device_that_was_not_asked_what_is_staged_is_judged_by_its_active_mode() -> None:
    assert plan_transition([replace(seen(FIRST, ON), staged=None)], CcMode.ON).is_done


def test_field_24_nothing_is_begun_while_one_device_is_in_use() -> None:
    plan = plan_transition([seen(FIRST, OFF, in_use=True), seen(SECOND, OFF)], CcMode.ON)
    assert (plan.phases, plan.refusals, plan.busy) == ((), (), (FIRST,))
    assert not plan.is_done


def test_a_device_in_use_that_is_in_the_mode_already_is_in_nobodys_way() -> None:
    plan = plan_transition([seen(FIRST, ON, in_use=True), seen(SECOND, OFF)], CcMode.ON)
    assert plan.busy == ()
    assert {step.address for step in plan.steps} == {SECOND}


def test_a_device_in_use_of_unknown_mode_is_waited_for() -> None:
    assert plan_transition([seen(FIRST, None, in_use=True)], CcMode.OFF).busy == (FIRST,)


def test_nothing_is_begun_while_one_device_has_a_problem_and_each_is_told() -> None:
    gone, unbound = Problem("unreadable", "gone"), Problem("not-bound", "it is held", "bind it first")
    third = PciAddress(0, 0x1D, 0, 0)
    plan = plan_transition(
        [seen(FIRST, None, problem=gone), seen(SECOND, None, part=None, problem=unbound), seen(third, OFF)], CcMode.ON
    )
    assert (plan.phases, plan.refusals) == ((), (Refusal(FIRST, gone), Refusal(SECOND, unbound)))


def test_a_device_with_a_problem_is_not_done_even_in_the_right_mode() -> None:
    assert not plan_transition([seen(FIRST, ON, problem=Problem("unreadable", "gone"))], CcMode.ON).is_done


def test_a_mode_that_a_part_does_not_have_is_told_with_the_ones_it_has() -> None:
    limited = replace(HOPPER_GPU, knobs={CcMode.OFF: (), CcMode.ON: ()})
    plan = plan_transition([seen(FIRST, OFF, part=limited), seen(SECOND, OFF)], CcMode.PPCIE)
    assert [str(refusal) for refusal in plan.refusals] == [
        f"{FIRST}: it is a Hopper GPU, which has no mode ppcie; set the label nvidia.com/cc.mode to one of off, on"
    ]
    assert plan.phases == ()


def test_each_step_says_what_it_does_and_to_which_device() -> None:
    assert [str(step) for step in plan_transition([seen(FIRST, OFF)], CcMode.ON).steps] == [
        "stage mode on on 0000:1b:00.0",
        "reset 0000:1b:00.0",
        "verify that 0000:1b:00.0 is in mode on",
    ]


# --- leaving PPCIe


def test_ppcie_is_left_in_the_same_pass_unless_asked_otherwise() -> None:
    plan = plan_transition([seen(FIRST, PPCIE), switch(PPCIE)], CcMode.ON)
    assert [step for step in plan.steps if isinstance(step, Stage)] == [
        Stage(FIRST, CcMode.ON),
        Stage(SWITCH, CcMode.ON),
    ]


def test_ppcie_is_left_in_a_reset_of_its_own_first_if_asked() -> None:
    plan = plan_transition([seen(FIRST, PPCIE), switch(PPCIE)], CcMode.ON, PpcieExit.TWO_PASS)
    assert plan.phases == (
        (Stage(FIRST, CcMode.OFF), Stage(SWITCH, CcMode.OFF)),
        (Reset(FIRST), Reset(SWITCH)),
        (Verify(FIRST, CcMode.OFF), Verify(SWITCH, CcMode.OFF)),
        (Stage(FIRST, CcMode.ON),),
        (Reset(FIRST),),
        (Verify(FIRST, CcMode.ON),),
    )


def test_two_passes_are_one_where_off_is_wanted_or_no_device_is_in_ppcie() -> None:
    assert len(plan_transition([seen(FIRST, PPCIE), switch(PPCIE)], CcMode.OFF, PpcieExit.TWO_PASS).phases) == 3
    plan = plan_transition([seen(FIRST, OFF), seen(SECOND, DEVTOOLS)], CcMode.ON, PpcieExit.TWO_PASS)
    assert plan == plan_transition([seen(FIRST, OFF), seen(SECOND, DEVTOOLS)], CcMode.ON)


def test_a_gpu_that_never_was_in_ppcie_waits_for_the_second_pass() -> None:
    plan = plan_transition([seen(FIRST, PPCIE), seen(SECOND, OFF)], CcMode.ON, PpcieExit.TWO_PASS)
    assert [[step.address for step in phase] for phase in plan.phases] == [[FIRST]] * 3 + [[FIRST, SECOND]] * 3


def test_entering_ppcie_and_staying_in_it_are_not_leaving_it() -> None:
    for ppcie_exit in PpcieExit:
        assert plan_transition([seen(FIRST, PPCIE), switch(PPCIE)], CcMode.PPCIE, ppcie_exit).is_done
        assert len(plan_transition([seen(FIRST, ON), switch(OFF)], CcMode.PPCIE, ppcie_exit).phases) == 3


# --- what may be a mistake


def test_field_33_ppcie_without_any_switch_is_warned_of_and_done() -> None:
    plan = plan_transition([seen(FIRST, OFF)], CcMode.PPCIE)
    (warning,) = plan.warnings
    assert "no NVSwitch is to be seen on this node" in warning
    assert "vfio-manager bind --nvswitches always" in warning
    assert len(plan.phases) == 3
    assert plan_transition([seen(FIRST, PPCIE)], CcMode.PPCIE).warnings == (warning,)


def test_field_33_with_switches_or_in_another_mode_there_is_nothing_to_warn_of() -> None:
    assert plan_transition([seen(FIRST, OFF), switch(OFF)], CcMode.PPCIE).warnings == ()
    assert plan_transition([seen(FIRST, OFF)], CcMode.ON).warnings == ()


def test_field_17_one_gpu_without_the_mode_keeps_all_from_changing_and_has_the_reason() -> None:
    plan = plan_transition([seen(FIRST, OFF), seen(SECOND, OFF, part=BLACKWELL_GB1XX)], CcMode.PPCIE)
    assert [refusal.address for refusal in plan.refusals] == [SECOND]
    assert "it is a Blackwell GPU (GB10x, GB11x), which has no mode ppcie" in str(plan.refusals[0])
    assert plan.phases == ()


# --- chosen devices


def test_only_the_chosen_devices_are_changed_and_the_others_troubles_are_not_theirs() -> None:
    broken = seen(SECOND, None, problem=Problem("unreadable", "gone"))
    plan = plan_transition([seen(FIRST, OFF), broken], CcMode.ON, only=[FIRST])
    assert {step.address for step in plan.steps} == {FIRST}
    assert plan_transition([seen(FIRST, OFF), seen(SECOND, OFF, in_use=True)], CcMode.ON, only=[FIRST]).busy == ()


def test_ppcie_is_for_all_devices_or_for_the_last_ones_that_are_not_in_it() -> None:
    plan = plan_transition([seen(FIRST, OFF), switch(OFF)], CcMode.PPCIE, only=[FIRST])
    assert [str(refusal) for refusal in plan.refusals] == [
        f"{SWITCH}: it is not in mode ppcie and was left out; choose all devices, or none by name"
    ]
    plan = plan_transition([seen(FIRST, OFF), switch(PPCIE)], CcMode.PPCIE, only=[FIRST])
    assert {step.address for step in plan.steps} == {FIRST}
