"""Which knobs a mode writes, in which order, and when it may not."""

from itertools import product

import pytest

from cc_manager.gpu.knobs import (
    HOPPER_GPU_KNOBS,
    NVSWITCH_GEN3_KNOBS,
    PERMISSION_OF,
    Knob,
    KnobTable,
    KnobValues,
    KnobWrite,
    Targets,
    forbidden_writes,
    knob_writes,
    knobs_to_read,
    missing_knobs,
    permissions_to_read,
    staged_mode,
)
from cc_manager.mode import CcMode, ModeBits

ODD = 7
"""A value that no mode wants, so that every knob differs."""


def all_knobs(value: int | None) -> dict[Knob, int | None]:
    return dict.fromkeys(Knob, value)


def numbers(targets: Targets) -> list[tuple[int, int]]:
    return [(target.knob.value, target.value) for target in targets]


def knobs(**values: int | None) -> dict[Knob, int | None]:
    """Values by number: `knobs(k8=1)`."""
    return {Knob(int(name[1:])): value for name, value in values.items()}


@pytest.mark.parametrize(
    ("mode", "writes"),
    [
        (CcMode.OFF, [(45, 0), (10, 0), (6, 0), (8, 0)]),
        (CcMode.ON, [(2, 0), (4, 0), (34, 0), (45, 0), (10, 2), (8, 1), (6, 0)]),
        (CcMode.DEVTOOLS, [(2, 0), (4, 0), (34, 0), (45, 0), (10, 0), (8, 1), (6, 1)]),
        (CcMode.PPCIE, [(2, 0), (4, 0), (34, 0), (6, 0), (8, 0), (10, 2), (45, 1)]),
    ],
)
def test_the_knobs_of_a_hopper_gpu_and_their_order(mode: CcMode, writes: list[tuple[int, int]]) -> None:
    current = all_knobs(ODD)
    assert numbers(knob_writes(HOPPER_GPU_KNOBS[mode], current)) == writes
    assert [knob.value for knob in knobs_to_read(HOPPER_GPU_KNOBS[mode])] == [number for number, _ in writes]


@pytest.mark.parametrize(
    ("mode", "writes"),
    [
        (CcMode.OFF, [(10, 0), (45, 0)]),
        (CcMode.ON, [(10, 0), (45, 0)]),
        (CcMode.DEVTOOLS, [(10, 0), (45, 0)]),
        (CcMode.PPCIE, [(2, 0), (4, 0), (34, 0), (6, 0), (8, 0), (10, 0), (45, 1)]),
    ],
)
def test_the_knobs_of_a_switch_and_their_order(mode: CcMode, writes: list[tuple[int, int]]) -> None:
    current = all_knobs(ODD)
    assert numbers(knob_writes(NVSWITCH_GEN3_KNOBS[mode], current)) == writes


def test_only_what_differs_is_written() -> None:
    current = knobs(k2=0, k4=0, k34=1, k45=0, k10=2, k8=0, k6=0)
    assert numbers(knob_writes(HOPPER_GPU_KNOBS[CcMode.ON], current)) == [(34, 0), (8, 1)]


@pytest.mark.parametrize("table", [HOPPER_GPU_KNOBS, NVSWITCH_GEN3_KNOBS])
@pytest.mark.parametrize("mode", CcMode)
def test_a_mode_that_is_staged_already_writes_nothing(table: KnobTable, mode: CcMode) -> None:
    current: KnobValues = {target.knob: target.value for target in table[mode]}
    assert knob_writes(table[mode], current) == ()


def test_no_order_of_writes_ever_sets_devtools_without_cc() -> None:
    for mode, cc, devtools in product(CcMode, (0, 1), (0, 1)):
        if (cc, devtools) == (0, 1):
            continue  # the invalid state itself: only the end matters, and the next test looks at that
        values: dict[Knob, int | None] = all_knobs(0) | {Knob.CC: cc, Knob.DEVTOOLS: devtools}
        for write in knob_writes(HOPPER_GPU_KNOBS[mode], values):
            values[write.knob] = write.value
            assert (values[Knob.CC], values[Knob.DEVTOOLS]) != (0, 1)


@pytest.mark.parametrize("mode", CcMode)
def test_every_mode_mends_the_invalid_state(mode: CcMode) -> None:
    values: dict[Knob, int | None] = all_knobs(0) | {Knob.CC: 0, Knob.DEVTOOLS: 1}
    for write in knob_writes(HOPPER_GPU_KNOBS[mode], values):
        values[write.knob] = write.value
    assert staged_mode(values).mode is mode


def test_firmware_without_ppcie_is_left_alone_where_ppcie_is_to_be_off() -> None:
    current = knobs(k45=None, k10=0, k6=0, k8=1)
    targets = HOPPER_GPU_KNOBS[CcMode.OFF]
    assert missing_knobs(targets, current) == ()
    assert numbers(knob_writes(targets, current)) == [(8, 0)]


@pytest.mark.parametrize("table", [HOPPER_GPU_KNOBS, NVSWITCH_GEN3_KNOBS])
def test_firmware_without_ppcie_cannot_do_the_ppcie_mode(table: KnobTable) -> None:
    current: dict[Knob, int | None] = all_knobs(0) | {Knob.PPCIE: None}
    assert missing_knobs(table[CcMode.PPCIE], current) == (Knob.PPCIE,)


@pytest.mark.parametrize("knob", [Knob.RESTRICTION_2, Knob.RESTRICTION_4, Knob.RESTRICTION_34, Knob.CC])
def test_no_other_knob_may_be_absent(knob: Knob) -> None:
    current: dict[Knob, int | None] = all_knobs(0) | {knob: None}
    assert missing_knobs(HOPPER_GPU_KNOBS[CcMode.ON], current) == (knob,)


def test_the_permission_of_every_knob_that_any_mode_writes_is_known() -> None:
    written = {
        target.knob for table in (HOPPER_GPU_KNOBS, NVSWITCH_GEN3_KNOBS) for row in table.values() for target in row
    }
    assert {knob.value: PERMISSION_OF[knob].value for knob in written} == {
        2: 1, 4: 3, 34: 33, 6: 5, 8: 7, 10: 9, 45: 44,
    }  # fmt: skip


def test_only_the_permissions_of_what_will_be_written_are_asked_for() -> None:
    writes = (KnobWrite(Knob.DECOUPLER, 2), KnobWrite(Knob.CC, 1))
    assert permissions_to_read(writes) == (Knob.DECOUPLER_ALLOWED, Knob.CC_ALLOWED)


@pytest.mark.parametrize(("permission", "is_forbidden"), [(0, True), (1, False), (None, False)])
def test_only_a_permission_that_reads_0_forbids(permission: int | None, is_forbidden: bool) -> None:
    writes = (KnobWrite(Knob.DECOUPLER, 2), KnobWrite(Knob.CC, 1))
    forbidden = forbidden_writes(writes, {Knob.DECOUPLER_ALLOWED: 1, Knob.CC_ALLOWED: permission})
    assert forbidden == ((KnobWrite(Knob.CC, 1),) if is_forbidden else ())


@pytest.mark.parametrize(
    ("values", "bits"),
    [
        (knobs(k6=0, k8=0, k45=0), ModeBits(0b00)),
        (knobs(k6=0, k8=1, k45=0), ModeBits(0b01)),
        (knobs(k6=1, k8=1, k45=0), ModeBits(0b11)),
        (knobs(k6=1, k8=0, k45=0), ModeBits(0b10)),
        (knobs(k6=0, k8=0, k45=1), ModeBits(0b00, ppcie=True)),
        (knobs(k6=0, k8=1, k45=None), ModeBits(0b01)),
        (knobs(k45=1), ModeBits(0b00, ppcie=True)),
    ],
)
def test_the_staged_mode_is_in_the_knobs(values: KnobValues, bits: ModeBits) -> None:
    assert staged_mode(values) == bits


def test_a_write_reads_as_a_step() -> None:
    assert str(KnobWrite(Knob.CC, 1)) == "set knob 8 (cc) to 1"
    assert Knob.DECOUPLER_ALLOWED.text == "knob 9 (decoupler allowed)"
