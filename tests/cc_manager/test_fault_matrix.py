"""Every fault of a device, for every pair of modes that matters, on one device of many and on all of them.

Field-problems rows 18, 21, 25, 26, 34, 38 and 41 at once: ready is told of verified devices only (checked at each write
of the node), one device's failure is told with its address, nothing is left staged that the node does not speak of, and
operands run again when, and only when, the devices are safe to be opened.
"""

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from _pytest.mark import ParameterSet

from cc_manager.cluster import labels
from cc_manager.settings import READY_FILE, PpcieExit, Settings
from nodelib.pci import PciAddress
from tests.cc_manager.fault_cases import BLACKWELL, FAILURES, HARMLESS, HOPPER, PASSING, FaultCase, gone_at_access, mend
from tests.cc_manager.invariant import MODES, staged
from tests.cc_manager.simulated import QUICK, CcNode
from tests.fakes.gpu import Chip
from tests.fakes.kernel import Hardware
from tests.fakes.parts import B200, H100_SXM, gpu, nvswitch

OPERAND = "nvidia.com/gpu.deploy.kata-sandbox-device-plugin"
PAUSED = "paused-for-cc-mode-change"
MANY, FEW = (8, 4), (3, 1)
"""GPUs and, on Hopper, switches."""
FOR_EVER_S = 1000.0
DECOUPLER = 10
CLOSED = (MODES["on"], MODES["ppcie"])
"""The modes in which the decoupler of a Hopper GPU is switched on (facts/fsp-and-cc-mode.md, section 4)."""
PAIRS = {
    HOPPER: (
        ("off", "on"),
        ("on", "off"),
        ("on", "devtools"),
        ("devtools", "off"),
        ("off", "ppcie"),
        ("ppcie", "on"),
        ("ppcie", "off"),
    ),
    BLACKWELL: (("off", "on"), ("on", "off"), ("on", "devtools"), ("devtools", "on")),
}


def hardware(family: str, size: tuple[int, int]) -> tuple[Hardware, ...]:
    gpus, switches = size
    model = B200 if family == BLACKWELL else H100_SXM
    placed = [gpu(f"0000:{0x1B + number:02x}:00.0", model, group=10 + number) for number in range(gpus)]
    if family == HOPPER:
        placed += [nvswitch(f"0000:{7 + number:02x}:00.0", group=60 + number) for number in range(switches)]
    return tuple(placed)


@contextmanager
def node_in(
    root: Path,
    family: str,
    size: tuple[int, int],
    mode: str,
    *,
    writes_hang: bool = False,
    answer_within_s: float = 10.0,
) -> Iterator[CcNode]:
    """Verified in *mode* and published so, with an operand running."""
    given = {labels.MODE: mode, OPERAND: "true"}
    placed = hardware(family, size)
    with CcNode(root, hardware=placed, labels=given, writes_hang=writes_hang, answer_within_s=answer_within_s) as node:
        node.put_into(mode)
        assert node.manager().round().ready
        yield node


def cases(scope: str) -> list[ParameterSet]:
    """Family, modes and fault of each case: all pairs for one device of few, one pair for one of many and for all."""
    found = []
    for fault, family in itertools.product(FAILURES, (HOPPER, BLACKWELL)):
        first, *others = [pair for pair in PAIRS[family] if fault.concerns(*pair)] or [("", "")]
        pairs = others if scope == "few" else [first]
        for before, mode in pairs:
            if family in fault.families and fault.concerns(before, mode):
                found.append(pytest.param(family, before, mode, fault, id=f"{family}-{before}-{mode}-{fault.name}"))
    return found


def gpus_of(node: CcNode) -> list[PciAddress]:
    return [address for address in node.addresses if node.devices[address].chip.is_gpu]


def assert_truth(node: CcNode, broken: list[PciAddress], fault: FaultCase) -> None:
    """After a change that failed because *broken* have the *fault*."""
    message = node.api.annotations[labels.MESSAGE]
    assert (node.api.labels[labels.STATE], node.api.labels[labels.READY]) == ("failed", "")
    assert fault.says in message
    assert "\n" not in message
    assert not node.node.host.resolve(READY_FILE).exists()
    named = [address for address in node.addresses if str(address) in message]
    assert set(named).issubset(broken)
    assert set(named).issuperset(set(broken).intersection(gpus_of(node))), message
    for address, verified in labels.parse_verified(node.api.annotations[labels.DEVICES]).items():
        assert MODES[verified.mode] == node.devices[address].active, f"{address} is not in {verified.mode}"
    waiting = [a for a, device in node.devices.items() if not device.gone and staged(device) != device.active]
    assert not waiting or not fault.is_readable, f"left staged on {waiting}"
    assert set(waiting).issubset(broken)
    for address, device in node.devices.items():
        if device.chip is Chip.GH100 and fault.is_readable and not device.gone:
            assert device.knobs[DECOUPLER] == (2 if device.active in CLOSED else 0), f"{address}: {device.knobs}"
    is_paused = PAUSED in node.api.labels[OPERAND]
    assert is_paused or not waiting, f"an operand may hand out {waiting}"
    assert not is_paused or not fault.is_readable, "an operand is left paused"


def change_and_fail(
    node: CcNode, mode: str, broken: list[PciAddress], fault: FaultCase, settings: Settings = QUICK
) -> None:
    for address in broken:
        fault.break_it(node, address)
    node.want(mode)
    result = node.manager(settings).round()
    assert (result.ready, result.retry) == (False, True)
    assert_truth(node, broken, fault)


def mend_and_succeed(node: CcNode, mode: str, broken: list[PciAddress], fault: FaultCase) -> None:
    for address in broken:
        mend(node, address, reset=fault.needs_reset)
    assert node.manager().round().ready, node.api.annotations[labels.MESSAGE]
    node.assert_all_in(mode)
    node.assert_says(mode)
    assert node.api.labels[OPERAND] == "true"
    assert node.node.host.resolve(READY_FILE).exists()


@pytest.mark.parametrize(("family", "before", "mode", "fault"), cases("many"))
@pytest.mark.parametrize("scope", ["one of 8", "all"])
def test_of_many(tmp_path: Path, family: str, before: str, mode: str, fault: FaultCase, scope: str) -> None:
    with node_in(tmp_path, family, MANY, before) as node:
        broken = gpus_of(node)[2:3] if scope == "one of 8" else list(node.addresses)
        change_and_fail(node, mode, broken, fault)
        if fault.can_be_mended:
            mend_and_succeed(node, mode, broken, fault)


@pytest.mark.parametrize(("family", "before", "mode", "fault"), cases("few"))
def test_between_all_modes(tmp_path: Path, family: str, before: str, mode: str, fault: FaultCase) -> None:
    with node_in(tmp_path, family, FEW, before) as node:
        broken = gpus_of(node)[1:2]
        change_and_fail(node, mode, broken, fault)
        if fault.can_be_mended:
            mend_and_succeed(node, mode, broken, fault)


def of_family(faults: Iterable[FaultCase]) -> list[ParameterSet]:
    found = itertools.product((HOPPER, BLACKWELL), faults)
    return [pytest.param(family, one, id=f"{family}-{one.name}") for family, one in found if family in one.families]


@pytest.mark.parametrize(("family", "fault"), of_family((*HARMLESS, *PASSING)))
def test_what_does_no_harm_or_passes_is_nobodys_business(tmp_path: Path, family: str, fault: FaultCase) -> None:
    with node_in(tmp_path, family, MANY, "off") as node:
        for address in node.addresses:
            fault.break_it(node, address)
        node.want("on")
        result = node.manager().round()
        assert result.ready, result.message
        node.assert_all_in("on")
        node.assert_says("on")
        assert node.api.labels[OPERAND] == "true"


TWICE = tuple(fault for fault in FAILURES if fault.name in {"its mode does not stick", "its boot never completes"})


@pytest.mark.parametrize("fault", TWICE, ids=lambda fault: fault.name)
@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("mode", ["on", "devtools"])
def test_ppcie_left_in_two_passes(tmp_path: Path, mode: str, at: int, fault: FaultCase) -> None:
    """A fault at the first reset, out of PPCIe, or at the second, into the mode."""
    settings = replace(QUICK, ppcie_exit=PpcieExit.TWO_PASS, device_retries=0)
    with node_in(tmp_path, HOPPER, FEW, "ppcie") as node:
        broken = gpus_of(node)[1]
        device = node.devices[broken]
        fault.break_it(node, broken)
        device.at_reset = {device.resets + at: device.at_reset[device.resets + 1]}
        change_and_fail(node, mode, [broken], replace(fault, break_it=lambda node, address: None), settings)
        mend_and_succeed(node, mode, [broken], fault)


@cache
def accesses_of_a_change(family: str) -> int:
    """How often the device that the next test takes away is accessed from the label to the end."""
    with TemporaryDirectory() as folder, node_in(Path(folder), family, FEW, "off") as node:
        one = node.devices[gpus_of(node)[1]]
        before = one.accesses
        node.want("on")
        assert node.manager().round().ready
        return one.accesses - before


@pytest.mark.parametrize("sixteenth", range(16))
@pytest.mark.parametrize("family", [HOPPER, BLACKWELL])
def test_gone_at_any_access(tmp_path: Path, family: str, sixteenth: int) -> None:
    number = 1 + accesses_of_a_change(family) * sixteenth // 16
    fault = FaultCase("gone", gone_at_access(number), can_be_mended=False)
    with node_in(tmp_path, family, FEW, "off") as node:
        broken = gpus_of(node)[1:2]
        change_and_fail(node, "on", broken, fault)
        assert node.devices[broken[0]].gone


HANGS = (
    # Somebody else holds the device's lock: it is not reset yet, and all else can be done to it.
    FaultCase("never begins", lambda node, address: node.kernel.faults.hang.add((address, "reset"))),
    # Its configuration space does not answer either, so that nobody knows what is in force or staged.
    FaultCase(
        "never ends",
        lambda node, address: node.kernel.faults.reset_s_of.update({address: FOR_EVER_S}),
        is_readable=False,
    ),
)


@pytest.mark.parametrize("fault", HANGS, ids=lambda fault: fault.name)
@pytest.mark.parametrize(("family", "scope"), [(HOPPER, "all"), (BLACKWELL, "one of 8")])
def test_a_reset_that(tmp_path: Path, family: str, scope: str, fault: FaultCase) -> None:
    with node_in(tmp_path, family, MANY, "off", writes_hang=True, answer_within_s=1.0) as node:
        broken = gpus_of(node)[2:3] if scope == "one of 8" else gpus_of(node)
        try:
            change_and_fail(node, "on", broken, fault, Settings(reset_timeout_s=2.0))
            assert (PAUSED in node.api.labels[OPERAND]) is not fault.is_readable
        finally:
            node.kernel.faults.reset_s_of.clear()
            node.kernel.end_pauses()
            node.kernel.release_hangs()
        node.kernel.wait_until_idle()
        mend_and_succeed(node, "on", [], fault)


@pytest.mark.parametrize("family", [HOPPER, BLACKWELL])
def test_field_19_lockdown_stops_a_change_before_anything_is_touched(tmp_path: Path, family: str) -> None:
    fault = FaultCase("lockdown", lambda node, _: node.kernel.set_lockdown("integrity"), "kernel lockdown")
    with node_in(tmp_path, family, MANY, "off") as node:
        before = node.accesses
        change_and_fail(node, "on", list(node.addresses), fault)
        assert node.accesses == before
        mend_and_succeed(node, "on", list(node.addresses), fault)
