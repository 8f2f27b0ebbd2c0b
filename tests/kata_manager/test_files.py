"""How the spec files are kept: whole, 0644, written only when they change, and removed when stale."""

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kata_manager.reconcile import SpecKeeper
from kata_manager.settings import Settings
from nodelib.errors import NodeError
from nodelib.vfio import Naming
from tests.fakes.kernel import FakeKernel
from tests.fakes.parts import nvswitch
from tests.kata_manager.builders import (
    GPU,
    NVSWITCH,
    OTHER_GPU,
    PGPU,
    TWO_GPUS,
    add_two_gpus,
    files,
    folder_of,
    identity,
    put,
    resolved,
    write,
)

RENAMED = Settings(Naming(gpu_alias="gpu"))


# --- written when needed, and whole


def test_a_file_whose_bytes_do_not_change_is_not_written_again(kernel: FakeKernel) -> None:
    write(kernel)
    before = identity(folder_of(kernel) / PGPU)
    assert write(kernel) == [], "the second plan is empty"
    assert SpecKeeper(kernel.node(), Settings()).plan().steps == ()
    assert identity(folder_of(kernel) / PGPU) == before


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777], ids=oct)
def test_everybody_may_read_a_spec_whatever_the_umask(kernel: FakeKernel, umask: int) -> None:
    # facts/field-problems.md, row 37
    folder_of(kernel).mkdir(parents=True)
    before = os.umask(umask)
    try:
        write(kernel)
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder_of(kernel) / PGPU).stat().st_mode) == 0o644


def test_a_folder_that_is_missing_is_made(kernel: FakeKernel) -> None:
    assert not folder_of(kernel).exists()
    write(kernel)
    assert files(kernel) == {PGPU: TWO_GPUS}


def test_an_absolute_link_stays_inside_the_host_root(kernel: FakeKernel, tmp_path: Path) -> None:
    # DESIGN, section 4, `--host-root`: /var/run is a link to /run. This one's target would be the test's own outside.
    root = kernel.host.root
    outside = tmp_path / "outside"
    inside = root / outside.relative_to("/")
    inside.mkdir(parents=True)
    (root / "var").mkdir()
    (root / "var/run").symlink_to(outside)
    write(kernel)
    assert (inside / "cdi" / PGPU).read_text() == TWO_GPUS
    assert not outside.exists()


def test_a_full_disk_in_the_middle_of_a_write_leaves_the_old_file_and_nothing_else(kernel: FakeKernel) -> None:
    write(kernel)
    kernel.add_device(nvswitch("0000:07:00.0", group=7), driver="vfio-pci")
    path = folder_of(kernel) / PGPU
    path.write_text("# managed by cgpu-agents: an old one\n")
    before = identity(path)
    # The limit on a file's size ends a write after so many bytes, as a full disk does.
    program = (
        "import resource, signal, sys; from kata_manager.__main__ import main; from kata_manager import reconcile;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300));"
        "sys.argv = ['kata-manager', 'spec', '--write', '--host-root', sys.argv[1]]; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", program, str(kernel.host.root)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    assert f"cannot write {path}" in done.stderr
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert identity(path) == before
    assert files(kernel)[PGPU] == "# managed by cgpu-agents: an old one\n"
    assert [name for name in files(kernel) if name.endswith(".tmp")] == []
    write(kernel)
    assert files(kernel)[PGPU] == TWO_GPUS


def test_what_a_killed_agent_left_half_written_is_in_nobodys_way(kernel: FakeKernel) -> None:
    # CDI reads only names that end in .json or .yaml
    left = put(kernel, f".{PGPU}.x1y2z3.tmp", TWO_GPUS[:100])
    write(kernel)
    assert {name: text for name, text in files(kernel).items() if name != left.name} == {PGPU: TWO_GPUS}
    assert left.suffix not in (".json", ".yaml")


def test_two_instances_at_once_end_with_the_same_bytes_and_leave_nothing_behind(kernel: FakeKernel) -> None:
    node = kernel.node()
    for _ in range(20):
        put(kernel, PGPU, "# managed by cgpu-agents: an old one\n")
        put(kernel, "nvidia.com-gone.yaml", "# managed by cgpu-agents: a stale one\n")
        start = threading.Barrier(3)
        errors: list[Exception] = []

        def run_once(start: threading.Barrier, errors: list[Exception]) -> None:
            keeper = SpecKeeper(node, Settings())
            start.wait()
            try:
                keeper.write()
            except NodeError as error:
                errors.append(error)

        threads = [threading.Thread(target=run_once, args=(start, errors)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert files(kernel) == {PGPU: TWO_GPUS}


def test_a_folder_that_cannot_be_is_told_with_its_path(kernel: FakeKernel) -> None:
    in_its_place = kernel.host.root / "var/run"
    in_its_place.parent.mkdir()
    in_its_place.write_text("no folder")
    with pytest.raises(NodeError, match=f"{in_its_place}/cdi"):
        write(kernel)
    assert in_its_place.read_text() == "no folder"


def test_a_subfolder_with_the_name_of_our_file_is_told(kernel: FakeKernel) -> None:
    (folder_of(kernel) / PGPU).mkdir(parents=True)
    with pytest.raises(NodeError, match=r"cannot write .*Is a directory"):
        write(kernel)
    assert [path.name for path in folder_of(kernel).iterdir()] == [PGPU], "no temporary file is left"


# --- stale ones


def test_the_old_name_goes_when_the_alias_changes(kernel: FakeKernel) -> None:
    # facts/field-problems.md, row 37
    write(kernel)
    write(kernel, RENAMED)
    assert list(files(kernel)) == ["nvidia.com-gpu.yaml"]
    assert files(kernel)["nvidia.com-gpu.yaml"] == TWO_GPUS.replace("nvidia.com/pgpu", "nvidia.com/gpu")
    assert write(kernel, RENAMED) == []


def test_a_crash_between_the_new_name_and_the_removal_of_the_old_is_finished_by_the_next_run(
    kernel: FakeKernel,
) -> None:
    write(kernel)
    write(kernel, RENAMED)
    put(kernel, PGPU, TWO_GPUS)
    (step,) = write(kernel, RENAMED)
    assert step.startswith(f"remove {folder_of(kernel) / PGPU}")
    assert list(files(kernel)) == ["nvidia.com-gpu.yaml"]


def test_a_kind_whose_last_device_is_gone_has_no_file(kernel: FakeKernel) -> None:
    # facts/field-problems.md, row 37; a spec without devices would be invalid
    switch = kernel.add_device(nvswitch("0000:07:00.0", group=7), driver="vfio-pci")
    write(kernel)
    assert set(files(kernel)) == {PGPU, NVSWITCH}
    kernel.unplug(switch)
    write(kernel)
    assert files(kernel) == {PGPU: TWO_GPUS}
    for address in (GPU, OTHER_GPU):
        kernel.unplug(address, whole_slot=True)
    write(kernel)
    assert files(kernel) == {}


# --- always the same


def test_equal_devices_give_equal_bytes_in_whatever_order_they_came(tmp_path: Path) -> None:
    texts = []
    for number, order in enumerate((1, -1)):
        with FakeKernel(tmp_path / str(number)) as kernel:
            add_two_gpus(kernel)
            for bus in (0x07, 0x0A)[::order]:
                kernel.add_device(nvswitch(f"0000:{bus:02x}:00.0", group=bus), driver="vfio-pci")
            write(kernel)
            texts.append(files(kernel))
            assert len(resolved(kernel)) == 6 + 4
    assert texts[0] == texts[1]
