"""What cc-manager's metrics tell: the mode of each device, the changes, why they fail and how long they take."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from cc_manager.mode import CcMode
from cc_manager.observation import Observation
from nodelib.metrics import Histogram, Metric, MetricType

DURATION_BOUNDS_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""From one Hopper GPU's reset to a node whose operands take their time."""
FAILURE_CODES = (
    "device",
    "device-refuses",
    "in-use",
    "left-bus",
    "mode-unsupported",
    "no-iommu",
    "not-bound",
    "off-bus",
    "operands",
    "pod-resources",
    "unknown-mode",
    "unreadable",
    "unsupported",
)
"""Shown from the start: a counter that begins with 1 has no increase that an alert could see."""


@dataclass
class Measures:
    """Counts since the process began; the modes are those of the last round."""

    observations: tuple[Observation, ...] = ()
    transitions: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    durations_s: Counter[float] = field(default_factory=Counter)
    """By the least bound that holds them."""
    total_s: float = 0.0
    last_failure: tuple[str, float] | None = None
    """Its code, and when it was (Unix time)."""

    def changed(self, mode: CcMode, duration_s: float) -> None:
        """A change to *mode* was carried out and verified."""
        self.transitions[mode.value] += 1
        self.total_s += duration_s
        self.durations_s[next((bound for bound in DURATION_BOUNDS_S if duration_s <= bound), float("inf"))] += 1

    def failed(self, code: str) -> None:
        self.failures[code] += 1
        self.last_failure = (code, time.time())

    def metrics(self) -> Iterable[Metric | Histogram]:
        last: dict[tuple[str, ...], float] = {}
        if self.last_failure:
            last[(self.last_failure[0],)] = self.last_failure[1]
        return (
            Metric(
                "cc_manager_device_mode",
                "1 for each device and its mode, which is unknown for one that cannot be asked.",
                MetricType.GAUGE,
                {(str(one.address), str(one.active or "unknown")): 1.0 for one in self.observations},
                ("device", "mode"),
            ),
            Metric(
                "cc_manager_transitions",
                "Changes of the node's mode that were verified, by mode.",
                MetricType.COUNTER,
                {(mode.value,): float(self.transitions[mode.value]) for mode in CcMode},
                ("mode",),
            ),
            Metric(
                "cc_manager_failed_transitions",
                f"Attempts to reach the mode that failed, by reason: {', '.join(FAILURE_CODES)}.",
                MetricType.COUNTER,
                {(code,): float(self.failures[code]) for code in sorted({*FAILURE_CODES, *self.failures})},
                ("reason",),
            ),
            Metric(
                "cc_manager_last_failure_timestamp_seconds",
                "When the last attempt failed, by its reason; absent if none did.",
                MetricType.GAUGE,
                last,
                ("reason",),
            ),
            Histogram(
                "cc_manager_transition_duration_seconds",
                "How long verified changes took, from the first look to the result.",
                {bound: self.durations_s[bound] for bound in (*DURATION_BOUNDS_S, float("inf"))},
                self.total_s,
            ),
        )
