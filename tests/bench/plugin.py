"""device-plugin: its start, its answers, its way back after a restart of the kubelet, and its size."""

import contextlib
import functools
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc

from device_plugin.reconcile import Plugin
from device_plugin.settings import CdiMode, Settings
from nodelib.kubelet import deviceplugin_v1beta1_pb2 as api
from nodelib.kubelet.deviceplugin_v1beta1_pb2_grpc import DevicePluginStub
from nodelib.pci import PciAddress
from nodelib.settings import DaemonSettings
from nodelib.wakeups import Wakeups
from tests.bench.measure import (
    Figure,
    command,
    cpu_ms,
    median,
    percentile,
    resident_mib,
    running,
    spent_cpu_ms,
    wall_ms,
)
from tests.fakes.kernel import FakeKernel
from tests.fakes.kubelet import Kubelet
from tests.fakes.topologies import Drivers, build

GPU = "nvidia.com/pgpu"
GAPS_S = (0.0, 0.02, 0.1, 0.3, 1.0)
"""Between the end of the kubelet's socket and its return; the middle of each round's pauses and beyond."""
PATIENCE_S = 60.0


def plugin_life(folder: Path) -> Iterator[Figure]:
    """Everything about the process, on the nodes that the design names and on one twice as large."""
    with _node("dgx-h100", folder / "dgx") as (kernel, kubelet):
        yield from _start(kernel, kubelet, 8, "12 devices", "<= 300 ms")
        with _process(kernel, kubelet, 8) as process:
            yield Figure("device-plugin: resident memory (and its reader)", _memory(process.pid), "<= 40 MiB")
            yield from _answers(kernel, kubelet)
            yield from _kubelet_restarts(kubelet)
            yield Figure("the same after 40 kubelet restarts", _memory(process.pid), "no growth")
        yield from _take_over(kernel, kubelet)
    with _node("dgx-h100", folder / "events") as (kernel, kubelet):
        yield from _events(kernel, kubelet, 8, "8 GPUs", 20)
    with _node("scale-2048", folder / "256") as (kernel, kubelet):
        yield from _start(kernel, kubelet, 256, "256 devices", "<= 600 ms")
    with _node("scale-4096", folder / "512") as (kernel, kubelet):
        yield from _start(kernel, kubelet, 512, "512 devices", "")
        yield from _events(kernel, kubelet, 512, "512 GPUs", 5)
        yield from _large_round(kernel)


@contextlib.contextmanager
def _node(topology: str, folder: Path) -> Iterator[tuple[FakeKernel, Kubelet]]:
    with build(topology, folder, drivers=Drivers(gpu="vfio-pci", nvswitch="vfio-pci")) as kernel:
        state = kernel.host.root / "var/lib/kubelet"
        with Kubelet(state / "device-plugins", state / "pod-resources") as kubelet:
            yield kernel, kubelet


def _command(kernel: FakeKernel) -> tuple[str, ...]:
    return (command("device-plugin"), "run", "--host-root", str(kernel.host.root), "--cdi", "write")


@contextlib.contextmanager
def _process(kernel: FakeKernel, kubelet: Kubelet, gpus: int) -> Iterator[subprocess.Popen[bytes]]:
    """A registered one."""
    with running(*_command(kernel)) as process:
        kubelet.wait_until(lambda: kubelet.allocatable(GPU) == gpus, PATIENCE_S)
        yield process


def _start(kernel: FakeKernel, kubelet: Kubelet, gpus: int, what: str, target: str) -> Iterator[Figure]:
    times, cpu = [], []
    for _ in range(5):
        begin = time.perf_counter()
        with _process(kernel, kubelet, gpus) as process:
            times.append((time.perf_counter() - begin) * 1000)
            cpu.append(spent_cpu_ms(process.pid))
        kubelet.wait_until(lambda: kubelet.allocatable(GPU) == 0, PATIENCE_S)
    text = f"median {median(times):.0f} ms, CPU {median(cpu):.0f} ms"
    yield Figure(f"device-plugin: start -> registered, {what}", text, target)


def _memory(pid: int) -> str:
    alone = resident_mib(pid, with_children=False)
    return f"{alone:.1f} MiB (+ {resident_mib(pid) - alone:.1f})"


def _answers(kernel: FakeKernel, kubelet: Kubelet) -> Iterator[Figure]:
    """Allocate beside a call that does nothing, turn by turn, so that the machine's other work strikes both."""
    (first, *_) = kubelet.devices(GPU)
    asking = api.AllocateRequest(container_requests=[api.ContainerAllocateRequest(devices_ids=[first])])
    socket = kernel.host.root / "var/lib/kubelet/device-plugins/nvidia.com_pgpu.sock"
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        stub = DevicePluginStub(channel)
        allocating, empty = [], []
        for _ in range(2000):
            empty += _timed(lambda: stub.GetDevicePluginOptions(api.Empty()))
            allocating += _timed(lambda: stub.Allocate(asking))
    above = median(allocating) - median(empty)
    text = f"+{above:.2f} ms (empty {median(empty):.2f}), p99 {percentile(allocating, 99):.1f} ms"
    yield Figure("device-plugin: Allocate above an empty call", text, "<= 0.15 ms, p99 <= 3 ms")


def _timed(call: Callable[[], object]) -> list[float]:
    begin = time.perf_counter()
    call()
    return [(time.perf_counter() - begin) * 1000]


def _kubelet_restarts(kubelet: Kubelet) -> Iterator[Figure]:
    back = []
    for number in range(40):
        kubelet.restart(gap_s=GAPS_S[number % len(GAPS_S)])
        begin = time.perf_counter()
        kubelet.wait_until(lambda: kubelet.allocatable(GPU) == 8, PATIENCE_S)
        back.append((time.perf_counter() - begin) * 1000)
    text = f"median {median(back):.0f} ms, p95 {percentile(back, 95):.0f} ms"
    yield Figure("device-plugin: kubelet restart -> registered", text, "p95 <= 250 ms, any gap")


def _take_over(kernel: FakeKernel, kubelet: Kubelet) -> Iterator[Figure]:
    for how in (signal.SIGTERM, signal.SIGKILL):
        times = []
        for _ in range(5):
            with _process(kernel, kubelet, 8) as first, running(*_command(kernel)):
                time.sleep(2.0)  # the second one has started, and found the place taken
                before = len(kubelet.registrations)
                first.send_signal(how)
                first.wait()
                begin = time.perf_counter()
                kubelet.wait_until(functools.partial(_has_new, kubelet, before), PATIENCE_S)
                times.append((time.perf_counter() - begin) * 1000)
            kubelet.wait_until(lambda: kubelet.allocatable(GPU) == 0, PATIENCE_S)
        text = f"median {median(times):.0f} ms, worst {max(times):.0f} ms"
        yield Figure(f"device-plugin: second one takes over after {how.name}", text, "<= 1000 ms")


def _has_new(kubelet: Kubelet, before: int) -> bool:
    """Whether somebody has registered since there were *before* registrations, and all is to be had."""
    return len(kubelet.registrations) > before and kubelet.allocatable(GPU) == 8


def _events(kernel: FakeKernel, kubelet: Kubelet, gpus: int, what: str, times: int) -> Iterator[Figure]:
    """In this process, since only here the simulated kernel's events are to be had."""
    wakeups = Wakeups()
    plugin = Plugin(kernel.node(), Settings(cdi=CdiMode.OFF, health_interval_s=60.0), wakeups)
    thread = threading.Thread(target=plugin.run, args=(DaemonSettings(60.0, ""),))
    thread.start()
    ill, well = [], []
    try:
        kubelet.wait_until(lambda: kubelet.allocatable(GPU) == gpus, PATIENCE_S)
        addresses = [str(device.address) for device in kernel.node().scan().gpus]
        for address in random.Random(1).choices(addresses, k=times):
            ill += _timed(functools.partial(_unplug, kernel, kubelet, address))
            _plug_back(kernel, address)
            well += _timed(functools.partial(_bind, kernel, kubelet, address, gpus))
    finally:
        wakeups.request_stop()
        thread.join()
    text = f"median {median(ill):.0f} ms, p95 {percentile(ill, 95):.0f} ms"
    yield Figure(f"uevent (unplug) -> Unhealthy at the kubelet, {what}", text, "p95 <= 250 ms")
    text = f"median {median(well):.0f} ms, p95 {percentile(well, 95):.0f} ms"
    yield Figure(f"bind (with it) -> Healthy at the kubelet, {what}", text, "")


def _unplug(kernel: FakeKernel, kubelet: Kubelet, address: str) -> None:
    before = kubelet.allocatable(GPU)
    kernel.unplug(address)
    kubelet.wait_until(lambda: kubelet.allocatable(GPU) == before - 1, PATIENCE_S)


def _plug_back(kernel: FakeKernel, address: str) -> None:
    """Without a driver, only to be bound."""
    kernel.plug_back(address)
    sysfs, place = kernel.sysfs(), PciAddress.parse(address)
    if driver := sysfs.pci_device(place).driver:
        sysfs.unbind(place, driver, 10)
    sysfs.set_driver_override(place, "vfio-pci")
    sysfs.close()


def _bind(kernel: FakeKernel, kubelet: Kubelet, address: str, gpus: int) -> None:
    sysfs = kernel.sysfs()
    sysfs.bind(PciAddress.parse(address), "vfio-pci")
    kubelet.wait_until(lambda: kubelet.allocatable(GPU) == gpus, PATIENCE_S)
    sysfs.close()


def _large_round(kernel: FakeKernel) -> Iterator[Figure]:
    plugin = Plugin(kernel.node(), Settings(cdi=CdiMode.WRITE))
    try:
        plugin.round()
        yield Figure("idle round of device-plugin, 512 GPUs", f"{cpu_ms(plugin.round, 5):.0f} ms CPU", "")
        yield Figure("the same by the clock", f"{median(wall_ms(plugin.round, 5)):.0f} ms", "")
    finally:
        plugin.close()
