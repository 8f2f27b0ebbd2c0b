"""What cc-manager was told to do, checked."""

from dataclasses import dataclass
from enum import Enum

from cc_manager.mode import CcMode

READY_FILE = "/run/nvidia/validations/.cc-manager-ctr-ready"
"""There while every device is verified in the desired mode; empty."""
LOCK_FILE = "/run/cgpu-agents/cc-manager.lock"
"""Held by whoever changes modes, the daemon or `set`, so that there is never a second one."""
"""Held by whoever changes modes on the node; under /run, so that a reboot frees it."""


class WhenBusy(Enum):
    """What a change of mode does about a device that a virtual machine has open."""

    WAIT = "wait"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Settings:
    """How patiently modes are changed, and what holds without a label."""

    default_mode: CcMode = CcMode.ON
    when_busy: WhenBusy = WhenBusy.WAIT
    reset_timeout_s: float = 60.0
    ready_file: str = READY_FILE
