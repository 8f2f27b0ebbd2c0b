"""`--release-on-stop`: off by default, because a restart of the daemon must touch no device."""

import os

from tests.fakes.kernel import FakeKernel
from tests.vfio_manager.builders import GPU, OTHER_GPU, RunningBinder, driver_of, writes_for
from vfio_manager.reconcile import Binder
from vfio_manager.settings import Settings


def test_field_13_stopping_the_daemon_touches_no_device(kernel: FakeKernel) -> None:
    with RunningBinder(kernel.node()) as running:
        running.wait_ready()
        kernel.writes.clear()
    assert kernel.writes == []
    assert driver_of(kernel, GPU) == "vfio-pci"


def test_if_asked_a_stop_gives_idle_devices_back_and_leaves_a_running_vm_its_own(kernel: FakeKernel) -> None:
    with RunningBinder(kernel.node(), Settings(release_on_stop=True)) as running:
        running.wait_ready()
        machine = kernel.start_vm(GPU)
        kernel.writes.clear()
    with machine:
        assert driver_of(kernel, OTHER_GPU) == "nvidia"
        assert driver_of(kernel, GPU) == "vfio-pci"
        assert writes_for(kernel, GPU) == []


def test_metrics_tell_idle_used_and_unbound_functions_apart(kernel: FakeKernel) -> None:
    binder = Binder(kernel.node(), Settings())
    assert binder.round().ready
    with kernel.start_vm(GPU):
        binder.round()
        (functions,) = [metric for metric in binder.metrics() if metric.name == "vfio_manager_functions"]
    assert dict(functions.values) == {("vfio-pci", "in-use"): 2.0, ("vfio-pci", "idle"): 1.0}


def test_a_modules_alias_of_30_megabytes_is_read_once(kernel: FakeKernel) -> None:
    path = kernel.host.root / "lib/modules/6.12/modules.alias"
    line = "alias pci:v00008086d00001234sv*sd*bc*sc*i* some_driver_of_another_kind\n"
    wanted = "alias vfio_pci:v000010DEd00002330sv*sd*bc*sc*i* nvgrace_gpu_vfio_pci\n"
    path.write_text(line * (30_000_000 // len(line)) + wanted)
    binder = Binder(kernel.node(), Settings())
    assert binder.plan(binder.scan())[1].of(binder.scan().by_address[GPU]) == "nvgrace_gpu_vfio_pci"
    stamp = path.stat()
    path.write_text(line * (30_000_000 // len(line)) + wanted.replace("nvgrace_gpu", "another_a_b"))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # what did not change is not read again
    assert binder.plan(binder.scan())[1].of(binder.scan().by_address[GPU]) == "nvgrace_gpu_vfio_pci"
    os.utime(path)
    assert binder.plan(binder.scan())[1].of(binder.scan().by_address[GPU]) == "another_a_b_vfio_pci"
