"""The process is killed at any access of a register, between two words of a message even, and started again.

Field-problems rows 16 and 18. `test_crash` ends it at every step of the whole protocol; this is about the two ways to
the firmware, in which a message can be left half written, half read, or with its answer still to come.
"""

from pathlib import Path

import pytest

from cc_manager.cluster import labels
from nodelib.pci import PciAddress
from tests.cc_manager.fault_cases import BLACKWELL, HOPPER
from tests.cc_manager.simulated import CcNode, Crash
from tests.cc_manager.test_fault_matrix import OPERAND, node_in

RESTART_S = 0.1
"""No process is there again sooner; answers take milliseconds (facts/fsp-and-cc-mode.md, section 3)."""
EVERY = {HOPPER: 17, BLACKWELL: 9}
"""Of so many accesses one is tried: prime to the length of a request's accesses, so that each kind has its turn."""


def is_killed(node: CcNode, mode: str, at: int) -> bool:
    """Whether a change came as far as its access number *at*, where the process ended."""
    left = at

    def end(address: PciAddress, offset: int, value: int | None) -> None:
        nonlocal left
        left -= 1
        if left <= 0:
            raise Crash

    node.on_access.append(end)
    node.want(mode)
    try:
        node.manager().round()
    except Crash:
        return True
    finally:
        node.on_access.clear()
    return False


def finish(node: CcNode) -> bool:
    """Rounds of a fresh start, as many as it may take; whether a reset by hand was needed."""
    node.time.sleep(RESTART_S)
    manager = node.manager()
    if manager.round().ready or manager.round().ready:
        return False
    # A message that a killed process left half written: what was staged is not known, so nobody but a person resets.
    message = node.api.annotations[labels.MESSAGE]
    assert "the FSP did not become ready for a message" in message
    assert "reset the device" in message
    for address in node.addresses:
        assert node.kernel.write(node.host_folder(address) / "reset", "1") == 0
    assert manager.round().ready, node.api.annotations[labels.MESSAGE]
    return True


@pytest.mark.parametrize(("before", "mode"), [("off", "on"), ("on", "devtools"), ("devtools", "off")])
@pytest.mark.parametrize("family", [HOPPER, BLACKWELL])
def test_whatever_register_was_the_last(tmp_path: Path, family: str, before: str, mode: str) -> None:
    resets_by_hand = at = 0
    while True:
        at += EVERY[family]
        folder = tmp_path / str(at)
        folder.mkdir()
        with node_in(folder, family, (1, 0), before) as node:
            if not is_killed(node, mode, at):
                break
            resets_by_hand += finish(node)
            node.assert_all_in(mode)
            node.assert_says(mode)
            assert node.api.labels[OPERAND] == "true"
    assert at > 20 * EVERY[family], "a change has far more accesses"
    assert bool(resets_by_hand) is (family == BLACKWELL)
