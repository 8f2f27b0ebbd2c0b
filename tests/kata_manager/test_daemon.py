"""The daemon: specs follow the devices, come back when somebody takes them away, and readiness tells the truth."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from kata_manager.settings import Settings
from nodelib.pci import PciAddress
from nodelib.vfio import Naming
from tests.fakes.kernel import FakeKernel
from tests.fakes.parts import gpu, nvswitch
from tests.fakes.polling import DEADLINE_S, until
from tests.kata_manager.builders import (
    AUDIO,
    GPU,
    NVSWITCH,
    OTHER_GPU,
    PGPU,
    TWO_GPUS,
    RunningKeeper,
    files,
    folder_of,
    foreign_spec,
    put,
    resolved,
    write,
)


def test_it_is_ready_when_every_name_resolves_and_its_specs_outlive_it(kernel: FakeKernel) -> None:
    with RunningKeeper(kernel.node()) as running:
        running.wait_ready()
        assert running.last.message == "6 CDI names resolve"
        assert files(kernel) == {PGPU: TWO_GPUS}
    assert files(kernel) == {PGPU: TWO_GPUS}


def test_rounds_without_a_change_write_nothing(kernel: FakeKernel) -> None:
    with RunningKeeper(kernel.node()) as running:
        running.wait_ready()
        before = (folder_of(kernel) / PGPU).stat()
        for _ in range(3):
            running.look_again()
        after = (folder_of(kernel) / PGPU).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("folder_is_there", [True, False], ids=["folder there", "no folder after a boot"])
def test_a_file_that_somebody_deletes_is_back_at_once(kernel: FakeKernel, folder_is_there: bool) -> None:
    # No timer helps here: the folder's own events do.
    if folder_is_there:
        folder_of(kernel).mkdir(parents=True)
    with RunningKeeper(kernel.node()) as running:
        running.wait_ready()
        for _ in range(2):
            (folder_of(kernel) / PGPU).unlink()
            until(lambda: files(kernel) == {PGPU: TWO_GPUS})


def test_a_folder_that_somebody_deletes_is_back_and_watched_as_before(kernel: FakeKernel) -> None:
    with RunningKeeper(kernel.node()) as running:
        running.wait_ready()
        for _ in range(2):
            shutil.rmtree(folder_of(kernel))
            until(lambda: folder_of(kernel).is_dir() and files(kernel) == {PGPU: TWO_GPUS})
            (folder_of(kernel) / PGPU).unlink()
            until(lambda: files(kernel) == {PGPU: TWO_GPUS})


def test_a_file_that_somebody_edits_is_put_right(kernel: FakeKernel) -> None:
    with RunningKeeper(kernel.node()) as running:
        running.wait_ready()
        put(kernel, PGPU, TWO_GPUS.replace("/dev/vfio/93", "/dev/vfio/65"))
        until(lambda: files(kernel) == {PGPU: TWO_GPUS})


def test_a_gpu_that_leaves_loses_its_names_and_gets_them_back(kernel: FakeKernel) -> None:
    with RunningKeeper(kernel.node()) as running:
        running.wait_ready()
        address = PciAddress.parse(OTHER_GPU)
        kernel.unplug(address)
        until(lambda: "nvidia.com/pgpu=93" not in resolved(kernel))
        assert "nvidia.com/pgpu=65" in resolved(kernel)
        kernel.plug_back(address)
        sysfs = kernel.sysfs()
        sysfs.set_driver_override(address, "vfio-pci")
        sysfs.bind(address, "vfio-pci")
        until(lambda: files(kernel) == {PGPU: TWO_GPUS})
        running.wait_ready()
    kernel.writes.clear()  # ours, not the agent's


def test_what_is_bound_later_appears(kernel: FakeKernel) -> None:
    # facts/field-problems.md, row 3
    with RunningKeeper(kernel.node()) as running:
        running.wait_ready()
        kernel.add_device(nvswitch("0000:07:00.0", group=7), driver="vfio-pci")
        running.wakeups.wake("a test")  # what starts out bound sends no event of its binding
        until((folder_of(kernel) / NVSWITCH).exists)
        running.wait_ready()


def test_zero_devices_is_a_state_and_no_error(kernel: FakeKernel) -> None:
    for address in (OTHER_GPU, GPU):
        kernel.unplug(address, whole_slot=True)
    with RunningKeeper(kernel.node()) as running:
        running.wait_ready()
        assert running.last.message == "0 CDI names resolve"
        assert files(kernel) == {}


def test_a_restart_under_running_vms_changes_nothing(kernel: FakeKernel) -> None:
    # facts/field-problems.md, row 14
    write(kernel)
    before = (folder_of(kernel) / PGPU).stat().st_ino
    with kernel.start_vm(GPU, AUDIO), RunningKeeper(kernel.node()) as running:
        running.wait_ready()
    assert (folder_of(kernel) / PGPU).stat().st_ino == before


# --- not ready


def test_a_broken_spec_of_anybody_is_named_and_goes_with_its_mending(kernel: FakeKernel) -> None:
    # facts/kubelet-cdi-kata-contract.md: Kata refuses every pod while one file is broken
    broken = put(kernel, "vendor.yaml", "cdiVersion: 0.5.0\nkind: [\n")
    with RunningKeeper(kernel.node()) as running:
        running.wait_not_ready()
        assert running.last.message.startswith(f"broken CDI spec {broken}")
        assert "mend or remove that file" in running.last.message
        assert files(kernel)[PGPU] == TWO_GPUS, "ours is there all the same"
        broken.unlink()
        running.wait_ready()


def test_a_rival_that_appears_makes_it_not_ready_until_it_goes(kernel: FakeKernel) -> None:
    with RunningKeeper(kernel.node()) as running:
        running.wait_ready()
        rival = put(kernel, "vendor.yaml", foreign_spec("nvidia.com/pgpu", {"65": "/dev/vfio/65"}))
        running.wait_not_ready()
        until(lambda: f"{rival} claims nvidia.com/pgpu=65 too" in running.last.message)
        assert rival.exists()
        rival.unlink()
        running.wait_ready()


def test_a_spec_of_ours_that_another_folder_overrides_is_not_ready(kernel: FakeKernel) -> None:
    # facts/kubelet-cdi-kata-contract.md: across folders the later one wins, and nothing is in conflict
    put(kernel, "vendor.yaml", foreign_spec("nvidia.com/pgpu", {"65": "/dev/vfio/1"}))
    with RunningKeeper(kernel.node(), Settings(cdi_folder="/etc/cdi")) as running:
        running.wait_not_ready()
        assert "etc/cdi/nvidia.com-pgpu.yaml and " in running.last.message
        assert "var/run/cdi/vendor.yaml name other device nodes for nvidia.com/pgpu=65" in running.last.message


def test_a_broken_spec_in_the_static_folder_counts_too(kernel: FakeKernel) -> None:
    static = kernel.host.root / "etc/cdi"
    static.mkdir(parents=True)
    with RunningKeeper(kernel.node()) as running:
        running.wait_ready()
        (static / "vendor.json").write_text("{")
        until(lambda: not running.last.ready)
        assert str(static / "vendor.json") in running.last.message
        (static / "vendor.json").unlink()
        running.wait_ready()


def test_a_folder_that_cannot_be_is_retried_and_names_the_path(kernel: FakeKernel) -> None:
    in_its_place = kernel.host.root / "var"
    in_its_place.write_text("no folder")
    with RunningKeeper(kernel.node()) as running:
        running.wait_not_ready()
        assert f"{in_its_place}/run/cdi" in running.last.message
        in_its_place.unlink()
        running.wakeups.wake("a test")
        running.wait_ready()


# --- the end


def test_a_clean_stop_takes_the_specs_away_if_asked_and_only_ours(kernel: FakeKernel) -> None:
    foreign = foreign_spec("vendor.com/thing", {"0": "/dev/null"})
    put(kernel, "vendor.yaml", foreign)
    kernel.add_device(nvswitch("0000:07:00.0", group=7), driver="vfio-pci")
    with RunningKeeper(kernel.node(), replace(Settings(), remove_on_stop=True)) as running:
        running.wait_ready()
        assert set(files(kernel)) == {PGPU, NVSWITCH, "vendor.yaml"}
    assert files(kernel) == {"vendor.yaml": foreign}


def test_the_metrics_count_names_writes_and_conflicts(kernel: FakeKernel) -> None:
    put(kernel, "broken.yaml", "{")
    kernel.add_device(gpu("0000:c1:00.0", 0xFFF0, group=100), driver="vfio-pci")
    with RunningKeeper(kernel.node(), Settings(Naming(gpu_alias=""))) as running:
        running.wait_not_ready()
        metrics = {metric.name: dict(metric.values) for metric in running.keeper.metrics()}
    assert metrics == {
        "kata_manager_devices": {
            ("nvidia.com/GH100_H100_SXM5_80GB", "listed"): 2.0,
            ("nvidia.com/GPU_FFF0", "listed"): 1.0,
        },
        "kata_manager_cdi_names": {("nvidia.com/GH100_H100_SXM5_80GB",): 6.0, ("nvidia.com/GPU_FFF0",): 3.0},
        "kata_manager_writes": {(): 2.0},
        "kata_manager_removals": {(): 0.0},
        "kata_manager_conflicts": {("cdi-broken",): 1.0, ("cdi-conflict",): 0.0, ("cdi-foreign-file",): 0.0},
    }


def test_the_process_keeps_the_specs_until_sigterm(kernel: FakeKernel) -> None:
    command = [sys.executable, "-m", "kata_manager", "run", "--host-root", str(kernel.host.root)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    path = folder_of(kernel) / PGPU
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            until(path.exists)
            path.unlink()
            until(path.exists)
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=DEADLINE_S)
        finally:
            process.kill()
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert files(kernel) == {PGPU: TWO_GPUS}
