"""Killed between any two file operations, or let down by the disk at any of them: never half a file. Issue 4, proof."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nodelib.cdi import specs_for
from nodelib.files import HostRoot
from nodelib.spec_files import SpecFormat, spec_text
from nodelib.spec_folder import SpecReader
from nodelib.vfio import Naming, assignable_devices
from tests.fakes.kernel import FakeKernel
from tests.kata_manager.builders import PGPU, TWO_GPUS, files, folder_of, put, write
from tests.kata_manager.dying_writer import SETTINGS
from tests.kata_manager.other_programs import need

STALE = "nvidia.com-gone.yaml"
WANTED = "nvidia.com-pgpu.json"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One write that was ended at one of its operations; the last one went through."""

    operation: str
    ended: str
    held: dict[str, str]

    @property
    def specs(self) -> dict[str, str]:
        return {name: text for name, text in self.held.items() if name.endswith((".json", ".yaml"))}


@pytest.fixture
def prepared(kernel: FakeKernel) -> FakeKernel:
    """A node with our spec in YAML and a stale one, where JSON is asked for."""
    write(kernel)
    put(kernel, STALE, "# managed by cgpu-agents: a stale one\n")
    return kernel


def attempts(kernel: FakeKernel, fault: str) -> Iterator[Attempt]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.kata_manager.dying_writer", str(kernel.host.root), fault],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        yield Attempt(**json.loads(line))


def whole(kernel: FakeKernel) -> dict[str, str]:
    """Every content that a spec file may ever have here, by its name."""
    (spec,) = specs_for(assignable_devices(kernel.node().scan(), Naming()))
    return {
        PGPU: TWO_GPUS,
        STALE: "# managed by cgpu-agents: a stale one\n",
        WANTED: spec_text(spec, SpecFormat.JSON).decode(),
    }


def test_killed_between_any_two_file_operations_no_file_is_ever_broken_or_half(prepared: FakeKernel) -> None:
    contents = whole(prepared)
    *killed, last = attempts(prepared, "kill")
    assert {attempt.ended for attempt in killed} == {"killed"}
    assert {"open", "write", "fsync", "fchmod", "unlink"} <= {attempt.operation for attempt in killed}
    assert {"rename", "replace"} & {attempt.operation for attempt in killed}
    for attempt in killed:
        for name, text in attempt.specs.items():
            assert text == contents[name], f"{name} after a kill before {attempt.operation}"
        others = set(attempt.held) - set(attempt.specs)
        assert all(name.startswith(".nvidia.com-") and name.endswith(".tmp") for name in others)
        # Whoever starts next finishes it.
        for name, text in attempt.held.items():
            put(prepared, name, text)
        write(prepared, SETTINGS)
        assert {name: text for name, text in files(prepared).items() if name not in others} == {
            WANTED: contents[WANTED]
        }
        for path in folder_of(prepared).iterdir():
            path.unlink()
    assert (last.operation, last.ended, last.held) == ("", "done", {WANTED: contents[WANTED]})


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO, errno.EROFS], ids=errno.errorcode.get)
def test_whichever_file_operation_fails_what_is_there_stays_whole_and_one_sentence_tells(
    prepared: FakeKernel, fault: int
) -> None:
    contents = whole(prepared)
    *failed, last = attempts(prepared, str(fault))
    assert last.ended == "done"
    assert len(failed) >= 8
    for attempt in failed:
        for name, text in attempt.specs.items():
            assert text == contents[name], f"{name} after {attempt.operation} failed"
        assert attempt.ended == "done" or attempt.ended.startswith("failed: cannot "), attempt.ended
        assert "\n" not in attempt.ended
        left = set(attempt.held) - set(attempt.specs)
        assert not left or attempt.operation == "unlink", f"{left} left behind by a failing {attempt.operation}"
        if attempt.ended == "done":
            assert attempt.operation == "unlink", "nothing that matters fails in silence"


def test_a_disk_that_is_full_in_the_middle_of_a_write_leaves_the_old_file(prepared: FakeKernel) -> None:
    """A real one: a tmpfs of two pages, of which the old spec has one and somebody else the other."""
    need()
    folder, root = folder_of(prepared), prepared.host.root
    script = (
        f"set -e; mount -t tmpfs -o size=8k tmpfs {folder}; printf '# managed by cgpu-agents: old' >{folder}/{PGPU}; "
        f"head -c 4096 /dev/zero >{folder}/filler; "
        f"{sys.executable} -m kata_manager spec --write --host-root {root} || echo rc=$?; "
        f"ls -A {folder}; cat {folder}/{PGPU}; rm {folder}/filler; "
        f"{sys.executable} -m kata_manager spec --write --host-root {root}; cat {folder}/{PGPU}"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=100,
    )
    said, _, after = done.stdout.partition("done: write")
    assert done.returncode == 0, done.stdout
    assert f"cannot write {folder / PGPU} (6 names) (No space left on device): make room on the file system" in said
    assert "rc=1" in said
    assert f"{'filler'}\n{PGPU}\n# managed by cgpu-agents: old" in said, "and nothing else is left there"
    assert after.endswith(TWO_GPUS)


def test_a_link_loop_in_place_of_our_file_is_somebody_elses(kernel: FakeKernel) -> None:
    folder_of(kernel).mkdir(parents=True)
    (folder_of(kernel) / PGPU).symlink_to(PGPU)
    (file,) = SpecReader(HostRoot(kernel.host.root)).read(folder_of(kernel))
    assert file.spec is None
    assert write(kernel) == []
    assert Path(folder_of(kernel) / PGPU).is_symlink()


def test_a_folder_that_is_mounted_read_only_is_told_with_the_remedy_by_run_and_doctor(prepared: FakeKernel) -> None:
    need()
    folder, root = folder_of(prepared), prepared.host.root
    before = files(prepared)
    (folder / PGPU).write_text("# managed by cgpu-agents: an old one\n")
    command = f"{sys.executable} -m kata_manager"
    script = (
        f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}; "
        f"{command} spec --write --host-root {root}; echo rc=$?; {command} doctor --host-root {root}; echo rc=$?"
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "80"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=100,
    )
    flowing = " ".join(done.stdout.split())
    assert f"cannot write {folder / PGPU} (6 names) (Read-only file system): make {folder} writable" in flowing
    assert f"fail cdi-folder: {folder} is not writable from here; run as root, and mount it writable" in flowing
    assert flowing.count("rc=1") == 2
    assert "Traceback" not in flowing
    assert set(files(prepared)) == set(before)
