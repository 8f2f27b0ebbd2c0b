"""Metrics as plain values: what an agent counts, without the library that serves it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar


class MetricType(Enum):
    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"  # always a Histogram


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family; names in base units, counters without their `_total`."""

    name: str
    help: str
    type: MetricType
    values: Mapping[tuple[str, ...], float]
    """Label values (in the order of `labels`) to the value."""
    labels: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often a duration or size fell where; without labels."""

    name: str
    help: str
    counts: Mapping[float, int]
    """By upper bound, ascending, each without those of the smaller bounds; the last bound is infinity."""
    total: float
    """The sum of all that was observed."""
    type: ClassVar[MetricType] = MetricType.HISTOGRAM
    labels: ClassVar[tuple[str, ...]] = ()


def gauge(name: str, help_text: str, value: float) -> Metric:
    """A gauge without labels."""
    return Metric(name, help_text, MetricType.GAUGE, {(): value})


def counter(name: str, help_text: str, value: float) -> Metric:
    """A counter without labels."""
    return Metric(name, help_text, MetricType.COUNTER, {(): value})
