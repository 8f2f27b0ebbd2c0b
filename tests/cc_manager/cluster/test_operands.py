"""The deploy labels around a change of mode: the protocol that other tools share, to the letter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cc_manager.cluster import operands
from cc_manager.cluster.operands import OPERANDS, PAUSED, LabelChange, key_of

VALUES = st.one_of(
    st.sampled_from(["true", "false", "", PAUSED, f"x_{PAUSED}", "paused-for-driver-upgrade", "container"]),
    st.text("aZ9-_.", max_size=61).map(lambda middle: f"v{middle}v"),
)
NODES = st.dictionaries(st.sampled_from([key_of(operand) for operand in (*OPERANDS, "cc-manager")]), VALUES)


def applied(labels: dict[str, str], changes: tuple[LabelChange, ...]) -> dict[str, str]:
    for change in changes:
        assert labels.get(change.key) == change.before
    return {**labels, **{change.key: change.after for change in changes}}


def test_the_suffix_and_the_operands_are_those_of_the_field() -> None:
    """facts/labels-and-settings.md"""
    assert PAUSED == "paused-for-cc-mode-change"
    assert set(OPERANDS) == {
        "vfio-manager",
        "kata-manager",
        "sandbox-device-plugin",
        "kata-sandbox-device-plugin",
        "sandbox-validator",
        "vgpu-manager",
        "vgpu-device-manager",
    }


@pytest.mark.parametrize(
    ("value", "paused"),
    [
        ("true", "paused-for-cc-mode-change"),
        ("custom", "custom_paused-for-cc-mode-change"),
        ("v" * 37, "v" * 37 + "_paused-for-cc-mode-change"),
        ("v" * 38, None),
        ("false", None),
        ("", None),
        ("paused-for-cc-mode-change", None),
        ("custom_paused-for-cc-mode-change", None),
        ("paused-for-cc-mode-change_x", None),
        ("paused-for-driver-upgrade", None),
        ("true_paused-for-driver-upgrade", None),
    ],
)
def test_what_pauses_an_operand(value: str, paused: str | None) -> None:
    assert operands.paused_value(value) == paused
    assert paused is None or len(paused) <= 63


@pytest.mark.parametrize(
    ("value", "restored"),
    [
        ("paused-for-cc-mode-change", "true"),
        ("custom_paused-for-cc-mode-change", "custom"),
        ("a_b_paused-for-cc-mode-change", "a_b"),
        ("true", None),
        ("false", None),
        ("", None),
        ("_paused-for-cc-mode-change", None),
        ("paused-for-cc-mode-change_x", None),
        ("paused-for-driver-upgrade", None),
        ("paused-for-cc-mode-change_paused-for-driver-upgrade", None),
    ],
)
def test_what_restores_it(value: str, restored: str | None) -> None:
    assert operands.restored_value(value) == restored


@given(NODES)
def test_the_second_pause_and_the_second_restore_are_empty_and_together_they_change_nothing(
    labels: dict[str, str],
) -> None:
    before = applied(labels, operands.plan_restore(labels))  # what somebody had paused runs
    paused = applied(before, operands.plan_pause(before))
    assert operands.plan_pause(paused) == ()
    restored = applied(paused, operands.plan_restore(paused))
    assert restored == before
    assert operands.plan_restore(restored) == ()


@given(NODES)
def test_cc_manager_itself_and_what_is_absent_are_never_touched(labels: dict[str, str]) -> None:
    for plan in (operands.plan_pause(labels), operands.plan_restore(labels)):
        assert {change.key for change in plan} <= labels.keys() - {key_of("cc-manager")}


def test_claiming_puts_true_on_what_is_absent_and_ours_and_is_done_after_that() -> None:
    labels = {key_of("vfio-manager"): "false", key_of("kata-manager"): ""}
    own = {"vfio-manager", "kata-manager", "sandbox-validator", "no-operand"}
    changes = operands.plan_claim(labels, own)
    assert changes == (LabelChange(key_of("sandbox-validator"), None, "true"),)
    assert operands.plan_claim(applied(labels, changes), own) == ()


def test_an_operand_whose_label_is_too_long_to_be_paused_is_named() -> None:
    labels = {key_of("vfio-manager"): "v" * 38, key_of("kata-manager"): "true", key_of("vgpu-manager"): "false"}
    assert operands.unpausable(labels) == ("vfio-manager",)


def test_a_json_patch_tests_every_value_that_was_read() -> None:
    changes = (LabelChange("nvidia.com/a~b", "true", PAUSED), LabelChange("x", None, "true"))
    assert operands.json_patch(changes) == [
        {"op": "test", "path": "/metadata/labels/nvidia.com~1a~0b", "value": "true"},
        {"op": "add", "path": "/metadata/labels/nvidia.com~1a~0b", "value": PAUSED},
        {"op": "test", "path": "/metadata/labels/x", "value": None},
        {"op": "add", "path": "/metadata/labels/x", "value": "true"},
    ]


def test_a_change_reads_as_one_line() -> None:
    assert str(LabelChange("nvidia.com/x", None, "true")) == "label nvidia.com/x from absent to true"
