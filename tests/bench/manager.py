"""cc-manager: a change of mode beside its slowest device, and what its process holds and uses when all is quiet."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from cc_manager.cluster.labels import MODE, READY
from cc_manager.gpu.access import Access
from cc_manager.gpu.bar0 import Words
from cc_manager.mode import CcMode
from cc_manager.setter import ModeSetter
from cc_manager.settings import Settings
from tests.bench.measure import Figure, cpu_ms, resident_mib, running
from tests.bench.remote_words import WordsServer
from tests.bench.secure_api import secured
from tests.cc_manager.simulated import CcNode
from tests.fakes.gpu import EmulatedDevice, chip_behind
from tests.fakes.kernel import FakeKernel, Hardware
from tests.fakes.kube.api import KubeApi
from tests.fakes.parts import B200, H100_SXM, gpu, nvswitch
from tests.fakes.polling import until

_NODE = "node-1"
_QUIET_S = 10.0
_ROUNDS = 20
_SLOWEST_S = 3.0
_SETTLED_S = 2.0
"""After which a round has ended for sure."""


def mode_changes(folder: Path) -> Iterator[Figure]:
    """Devices that boot in 1 to 3 s, as real ones do, against the slowest of them alone."""
    nodes = (
        ("8 Hopper GPUs and 4 switches", H100_SXM, 4),
        ("8 Blackwell GPUs", B200, 0),
    )
    for what, model, switches in nodes:
        alone = _change(folder / f"{model:x}-alone", [gpu("0000:1b:00.0", model, group=1)])
        many = [gpu(f"0000:{0x1B + number:02x}:00.0", model, group=1 + number) for number in range(8)]
        many += [nvswitch(f"0000:{7 + number:02x}:00.0", group=50 + number) for number in range(switches)]
        together = _change(folder / f"{model:x}-many", many)
        ratio = f"{together:.2f} s / {alone:.2f} s = {together / alone:.2f}"
        yield Figure(f"mode change: {what} / the slowest", ratio, "<= 1.25")


def manager_life(folder: Path) -> Iterator[Figure]:
    """The daemon's process on a node of 8 GPUs and 4 switches, with an API server behind TLS."""
    hardware = [gpu(f"0000:{0x1B + number:02x}:00.0", group=1 + number) for number in range(8)]
    hardware += [nvswitch(f"0000:{7 + number:02x}:00.0", group=50 + number) for number in range(4)]
    with (
        _kernel(folder / "host", hardware, boot_time_s=0.2) as kernel,
        KubeApi(_NODE, {MODE: "on"}) as api,
        WordsServer(kernel.map_bar0) as words,
        secured(api, folder) as access,
        _daemon(kernel, words, access) as one,
    ):
        until(lambda: api.labels.get(READY) == "true")
        yield Figure("cc-manager: resident memory after a change", f"{resident_mib(one.pid):.0f} MiB", "<= 55 MiB")
        time.sleep(_SETTLED_S)
        before = _cpu_s(one.pid)
        time.sleep(_QUIET_S)
        used_ms = (_cpu_s(one.pid) - before) * 1000
        yield Figure(f"cc-manager: CPU of a quiet watch in {_QUIET_S:.0f} s", f"{used_ms:.0f} ms", "none")
        for number in range(20):
            api.set_label(MODE, "off" if number % 2 == 0 else "on")
            wanted = "false" if number % 2 == 0 else "true"
            until(lambda wanted=wanted: api.labels.get(READY) == wanted)  # type: ignore[misc]
        yield Figure("the same memory after 20 changes more", f"{resident_mib(one.pid):.0f} MiB", "no growth")
    yield _idle_round(folder / "idle")


def _idle_round(folder: Path) -> Figure:
    """In this process, so that the time of the emulated devices can be taken off: a real BAR0 answers at once."""
    words_s = 0.0

    class TimedWords:
        def __init__(self, words: Words) -> None:
            self._words = words

        def __getitem__(self, index: int) -> int:
            nonlocal words_s
            begin = time.thread_time()
            value = self._words[index]
            words_s += time.thread_time() - begin
            return value

        def __setitem__(self, index: int, value: int) -> None:
            nonlocal words_s
            begin = time.thread_time()
            self._words[index] = value
            words_s += time.thread_time() - begin

    with CcNode(folder, gpus=8, labels={MODE: "off"}) as node:
        map_words = node.map_words

        @contextlib.contextmanager
        def timed_words(path: Path) -> Iterator[Words]:
            with map_words(path) as words:
                yield TimedWords(words)

        node.map_words = timed_words  # type: ignore[method-assign]  # the same, with a watch
        manager = node.manager()
        assert manager.round().ready
        words_s = 0.0
        all_ms = cpu_ms(manager.round, _ROUNDS)
        own_ms = all_ms - words_s * 1000 / (_ROUNDS + 1)
        return Figure("idle round of cc-manager, 8 GPUs", f"{own_ms:.1f} ms CPU", "<= 10 ms CPU")


def _change(folder: Path, hardware: list[Hardware]) -> float:
    """How long the change from off to on takes, in seconds."""
    with _kernel(folder, hardware, boot_time_s=_SLOWEST_S) as kernel:

        @contextlib.contextmanager
        def map_words(path: Path) -> Iterator[Words]:
            yield kernel.map_bar0(path)

        node = kernel.node()
        setter = ModeSetter(node, Access(node, map_words), Settings())
        begin = time.perf_counter()
        outcome = setter.set(CcMode.ON)
        assert outcome.ok, outcome.reasons
        return time.perf_counter() - begin


@contextlib.contextmanager
def _kernel(folder: Path, hardware: list[Hardware], *, boot_time_s: float) -> Iterator[FakeKernel]:
    """A node of these devices; the first boots in that time, the others sooner, down to a third of it."""
    with FakeKernel(folder) as kernel:
        kernel.set_module_parameter("kvm_amd", "sev_snp", "Y")
        for number, one in enumerate(hardware):
            kernel.add_device(one, driver="vfio-pci")
            chip = chip_behind(one.device, one.pci_class)
            assert chip is not None
            boots_in_s = boot_time_s * (1 - number / len(hardware) * 2 / 3)
            kernel.attach(one.address, EmulatedDevice(chip, boot_time_s=boots_in_s))
        yield kernel


@contextlib.contextmanager
def _daemon(
    kernel: FakeKernel, words: WordsServer, access: list[str], interval_s: float = 60.0
) -> Iterator[subprocess.Popen[bytes]]:
    program = (sys.executable, "-m", "tests.bench.manager_process")
    with running(*program, str(kernel.host.root), kernel.write_socket, words.name, *access) as process:
        yield process


def _cpu_s(pid: int) -> float:
    """User and system time of the process so far (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
