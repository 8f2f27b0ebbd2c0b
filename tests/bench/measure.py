"""Timing and memory of pieces of code and of processes, as medians and percentiles."""

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the report."""

    what: str
    measured: str
    target: str


def wall_ms(do: Callable[[], object], runs: int) -> list[float]:
    """How long each of *runs* calls takes; one call before them does not count."""
    do()
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        do()
        times.append((time.perf_counter() - begin) * 1000)
    return times


def cpu_ms(do: Callable[[], object], runs: int) -> float:
    """CPU time of one call of *do* in this process, averaged over *runs*."""
    do()
    begin = time.process_time()
    for _ in range(runs):
        do()
    return (time.process_time() - begin) * 1000 / runs


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that *percent* of *values* do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def command(name: str) -> str:
    """The path of one of our commands in this environment."""
    return str(Path(sys.executable).parent / name)


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of ours while entered, ended as Kubernetes ends it."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_environment())
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def process_ms(*arguments: str, runs: int = 5) -> float:
    """Median wall time of a whole process."""
    return median(
        wall_ms(lambda: subprocess.run(arguments, stdout=subprocess.DEVNULL, check=False, env=_environment()), runs)
    )


def resident_mib(pid: int, *, with_children: bool = True) -> float:
    """Resident memory of *pid* and its children; what they share counts for each, so that the sum is an upper bound."""
    total = 0
    for process in (pid, *(_children(pid) if with_children else ())):
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{process}/status").read_text()
            total += int(status.partition("VmRSS:")[2].split()[0])
    return total / 1024


def spent_cpu_ms(pid: int) -> float:
    """The CPU time that *pid* has taken so far: what is left of a duration on a machine that has much else to do."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> list[int]:
    """Those that any thread of *pid* has started: each thread has a list of its own (proc(5))."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, task.read_text().split())
    return found


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
