"""`python -m tests.bench`: prints a table of what was measured beside the design's targets (DESIGN, section 6)."""

import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from device_plugin.reconcile import Plugin
from kata_manager.reconcile import SpecKeeper
from kata_manager.settings import Settings as KataSettings
from tests.bench.manager import manager_life, mode_changes
from tests.bench.measure import (
    Figure,
    command,
    cpu_ms,
    median,
    process_ms,
    resident_mib,
    running,
    wall_ms,
)
from tests.bench.plugin import plugin_life
from tests.fakes.node import SimulatedNode
from tests.fakes.topologies import Drivers, build
from vfio_manager.reconcile import Binder
from vfio_manager.settings import Settings as VfioSettings

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""A simulated node is hundreds of files, and a disk would be measured instead of the agents."""
VERBS = (("vfio-manager", "status"), ("kata-manager", "status"), ("cc-manager", "status"), ("device-plugin", "list"))


def main(names: Sequence[str] = ()) -> None:
    """Measure the parts called *names*, or everything, a line at a time."""
    logging.disable(logging.CRITICAL)
    print(f"{'WHAT':52} {'MEASURED':34} TARGET")
    for part in [part for part in PARTS if not names or part.__name__ in names]:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=MEMORY) as folder:
            for figure in part(Path(folder)):
                print(f"{figure.what:52} {figure.measured:34} {figure.target}", flush=True)


def scans(folder: Path) -> Iterator[Figure]:
    for topology, target in (("dgx-h100", "<= 5 ms"), ("scale-512", "<= 150 ms, linear")):
        with build(topology, folder / topology, drivers=Drivers(gpu="vfio-pci", nvswitch="vfio-pci")) as kernel:
            node = kernel.node()
            found = len(node.scan().devices)
            times = wall_ms(node.scan, 20)
            yield Figure(f"scan of {topology} ({found} functions read in full)", f"{median(times):.1f} ms", target)


def idle_rounds(folder: Path) -> Iterator[Figure]:
    with SimulatedNode("dgx-h100", folder) as simulated:
        binder = Binder(simulated.node, VfioSettings())
        binder.bind()
        keeper = SpecKeeper(simulated.node, KataSettings())
        plugin = Plugin(simulated.node)
        rounds: tuple[tuple[str, Callable[[], object]], ...] = (
            ("vfio-manager", binder.round),
            ("kata-manager", keeper.round),
            ("device-plugin", plugin.round),
        )
        for name, one_round in rounds:
            yield Figure(f"idle round of {name}, 8 GPUs", f"{cpu_ms(one_round, 20):.1f} ms CPU", "<= 10 ms CPU")
        plugin.close()


def binds(folder: Path) -> Iterator[Figure]:
    for delay_s, target in ((0.0, "kernel's own time + 200 ms"), (0.3, "<= 450 ms")):
        with build("hgx-b200", folder / f"{delay_s}") as kernel:
            kernel.faults.bind_s = delay_s
            binder = Binder(kernel.node(), VfioSettings(ready_file=""))
            begin = time.perf_counter()
            outcome = binder.bind()
            took_ms = (time.perf_counter() - begin) * 1000
            state = "" if outcome.ok else " (FAILED)"
            yield Figure(
                f"bind of 8 GPUs, {delay_s * 1000:.0f} ms each in the kernel", f"{took_ms:.0f} ms{state}", target
            )


def quick_answers(folder: Path) -> Iterator[Figure]:
    with build("dgx-h100", folder / "host", drivers=Drivers(gpu="vfio-pci", nvswitch="vfio-pci")) as kernel:
        root = str(kernel.host.root)
        for name, verb in VERBS:
            shown = process_ms(command(name), verb, "--host-root", root)
            helped = process_ms(command(name), "--help")
            yield Figure(f"{name} {verb} / --help", f"{shown:.0f} ms / {helped:.0f} ms", "<= 250 ms")


def managers_memory(folder: Path) -> Iterator[Figure]:
    with build("dgx-h100", folder / "host", drivers=Drivers(gpu="vfio-pci", nvswitch="vfio-pci")) as kernel:
        for name, verb in (("vfio-manager", "run"), ("kata-manager", "run")):
            with running(command(name), verb, "--host-root", str(kernel.host.root)) as process:
                time.sleep(1.0)
                memory = f"{resident_mib(process.pid):.0f} MiB"
                yield Figure(f"{name}: resident memory", memory, "<= 30 MiB")


PARTS = (scans, idle_rounds, binds, mode_changes, quick_answers, plugin_life, manager_life, managers_memory)

if __name__ == "__main__":
    main(sys.argv[1:])
