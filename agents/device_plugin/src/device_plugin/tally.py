"""What is counted while serving, and the metrics that it becomes together with the devices of the last round."""

import math
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping

from device_plugin.inventory import Devices
from nodelib.metrics import Histogram, Metric, MetricType, counter
from nodelib.names import ResourceName

PREFIX = "device_plugin"
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, math.inf)
"""Of the time that Allocate takes: milliseconds by itself, seconds where it waits for a device."""


class Tally:
    """Counts from several threads; only ever grows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._allocations: Counter[tuple[str, ...]] = Counter()
        self._durations = dict.fromkeys(BUCKETS_S, 0)
        self._duration_s = 0.0
        self._registrations: Counter[tuple[str, ...]] = Counter()
        self._kubelet_restarts = 0

    def allocated(self, resource: ResourceName, result: str, duration_s: float) -> None:
        """One Allocate was answered: `allocated`, `held` (in use, given away all the same) or `refused`."""
        with self._lock:
            self._allocations[str(resource), result] += 1
            self._durations[BUCKETS_S[bisect_left(BUCKETS_S, duration_s)]] += 1
            self._duration_s += duration_s

    def registered(self, resource: ResourceName, result: str) -> None:
        """The kubelet has answered a registration: `accepted` or `failed`."""
        with self._lock:
            self._registrations[str(resource), result] += 1

    def kubelet_restarted(self) -> None:
        with self._lock:
            self._kubelet_restarts += 1

    def metrics(self, desired: Mapping[ResourceName, Devices]) -> Iterable[Metric | Histogram]:
        """Everything counted so far, and *desired* by health and use."""
        with self._lock:
            return (
                *_device_metrics(desired),
                _counted(
                    "allocations",
                    "Allocate calls by result: allocated, held (given away although in use), refused.",
                    self._allocations,
                    "resource",
                    "result",
                ),
                Histogram(
                    f"{PREFIX}_allocation_seconds",
                    "Time that Allocate took, the wait for devices in use included.",
                    dict(self._durations),
                    self._duration_s,
                ),
                _counted(
                    "registrations",
                    "Registrations by result: accepted, failed.",
                    self._registrations,
                    "resource",
                    "result",
                ),
                counter(f"{PREFIX}_kubelet_restarts", "Restarts of the kubelet seen.", self._kubelet_restarts),
            )


def _device_metrics(desired: Mapping[ResourceName, Devices]) -> Iterable[Metric]:
    health: dict[tuple[str, ...], float] = {}
    in_use: dict[tuple[str, ...], float] = {}
    for resource, devices in desired.items():
        healthy = sum(device.is_healthy for device in devices)
        health[str(resource), "healthy"] = healthy
        health[str(resource), "unhealthy"] = len(devices) - healthy
        in_use[(str(resource),)] = sum(device.in_use for device in devices)
    yield Metric(
        f"{PREFIX}_devices",
        "Advertised devices by health: healthy, unhealthy.",
        MetricType.GAUGE,
        health,
        ("resource", "health"),
    )
    yield Metric(f"{PREFIX}_devices_in_use", "Devices that a VM has open.", MetricType.GAUGE, in_use, ("resource",))


def _counted(name: str, help_text: str, values: Mapping[tuple[str, ...], float], *labels: str) -> Metric:
    return Metric(f"{PREFIX}_{name}", help_text, MetricType.COUNTER, dict(values), labels)
