"""What cc-manager was told to do, checked."""

from dataclasses import dataclass
from enum import Enum

from cc_manager.mode import CcMode

READY_FILE = "/run/nvidia/validations/.cc-manager-ctr-ready"
"""There while every device is verified in the desired mode; empty."""
LOCK_FILE = "/run/cgpu-agents/cc-manager.lock"
"""Held by whoever changes modes, the daemon or `set`, so that there is never a second one."""
"""Held by whoever changes modes on the node; under /run, so that a reboot frees it."""
OPERATOR_NAMESPACE = "gpu-operator"


class WhenBusy(Enum):
    """What a change of mode does about a device that a virtual machine has open, or a pod was given."""

    WAIT = "wait"
    FAIL = "fail"
    EVICT = "evict"  # only where there are pods: not by hand


class Drift(Enum):
    """What is done about a device that is found in another mode than the node was told to be in."""

    MEND = "mend"
    REPORT = "report"


class PpcieExit(Enum):
    """How PPCIe is left for another mode."""

    SINGLE = "single"  # with the reset that brings the other mode
    TWO_PASS = "two-pass"  # noqa: S105 - no password: with a reset of its own first, as the manager in use does


@dataclass(frozen=True, slots=True)
class Settings:
    """How patiently modes are changed, and what holds without a label."""

    default_mode: CcMode = CcMode.ON
    when_busy: WhenBusy = WhenBusy.WAIT
    reset_timeout_s: float = 60.0
    device_retries: int = 1
    """How often a step that failed on one device is tried again there."""
    device_timeout_s: float = 120.0
    """After which a device gets no further attempt at a step."""
    ppcie_exit: PpcieExit = PpcieExit.SINGLE
    ready_file: str = READY_FILE


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """How a change of mode treats what runs on the node beside us."""

    namespace: str = OPERATOR_NAMESPACE
    """Where the operands run."""
    pause_operands: bool = True
    claim_operands: bool = False
    drift: Drift = Drift.MEND
    operand_timeout_s: float = 120.0
    """For the operands' pods to end, and again for those who came in between."""
    evict_timeout_s: float = 300.0
    """For evicted pods to end, over as many rounds as that takes."""
