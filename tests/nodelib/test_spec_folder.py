"""CDI folders on the node: reading them, and carrying out a plan. facts/kubelet-cdi-kata-contract.md, section CDI."""

import os
import socket
import time
from pathlib import Path

import pytest

from nodelib.errors import InvalidValue, NodeError
from nodelib.files import HostRoot
from nodelib.spec_files import SpecFile, spec_text
from nodelib.spec_folder import SpecReader, apply, leftovers
from nodelib.spec_plan import RemoveSpec, WriteSpec
from tests.nodelib.test_spec_files import SPEC, foreign

FOREIGN = b"""{"cdiVersion": "0.3.0", "kind": "vendor.com/gpu",
 "devices": [{"name": "a", "containerEdits": {"deviceNodes": [{"path": "/dev/a"}]}}]}"""


@pytest.fixture
def host(tmp_path: Path) -> HostRoot:
    for folder in ("etc/cdi", "run/cdi", "var"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "var/run").symlink_to("/run")
    return HostRoot(tmp_path)


# --- reading


def test_only_json_and_yaml_files_directly_in_the_folder_are_read(tmp_path: Path) -> None:
    for name in ("b.json", "a.yaml", "c.yml", ".a.yaml.x.tmp", "README"):
        (tmp_path / name).write_bytes(FOREIGN)
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "folder.yaml/inside.yaml").write_bytes(FOREIGN)
    assert [file.path.name for file in SpecReader(HostRoot(tmp_path)).read(tmp_path)] == ["a.yaml", "b.json"]


def test_a_folder_that_is_not_there_holds_nothing_and_one_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    assert SpecReader(HostRoot(tmp_path)).read(tmp_path / "cdi") == ()
    (tmp_path / "cdi").touch()
    with pytest.raises(InvalidValue, match=r"cannot list the CDI folder .*/cdi \(Not a directory\)"):
        SpecReader(HostRoot(tmp_path)).read(tmp_path / "cdi")


def test_a_link_to_nowhere_is_a_broken_file_as_it_is_to_runtimes(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("nothing")
    (file,) = SpecReader(HostRoot(tmp_path)).read(tmp_path)
    assert file == SpecFile(tmp_path / "a.yaml", b"", None, "a link to nowhere", is_link=True)


def test_a_file_that_cannot_be_read_is_broken_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("a.yaml")
    (tmp_path / "b.yaml").write_bytes(FOREIGN)
    broken, well = SpecReader(HostRoot(tmp_path)).read(tmp_path)
    assert broken.fault == f"cannot be read (/a.yaml below {tmp_path} goes through too many links)"
    assert well.spec is not None


def test_a_file_that_changed_is_read_again_and_one_that_did_not_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(foreign(name="one"))
    reader = SpecReader(HostRoot(tmp_path), clock_ns=lambda: time.time_ns() + 2_000_000_000)
    (first,) = reader.read(tmp_path)
    (again,) = reader.read(tmp_path)
    assert again is first
    path.write_bytes(foreign(name="other"))
    (changed,) = reader.read(tmp_path)
    assert changed.spec is not None
    assert changed.spec.devices[0].name == "other"


def test_a_file_that_changed_just_now_is_read_again_as_its_times_may_not_tell_of_the_next_change(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(foreign(name="a"))
    reader = SpecReader(HostRoot(tmp_path))
    reader.read(tmp_path)
    before = path.stat()
    path.write_bytes(foreign(name="b"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    (file,) = reader.read(tmp_path)
    assert file.spec is not None
    assert file.spec.devices[0].name == "b"


def test_an_absolute_link_is_followed_inside_the_hosts_root(host: HostRoot) -> None:
    (host.root / "etc/vendor.yaml").write_bytes(FOREIGN)
    (host.root / "etc/cdi/a.yaml").symlink_to("/etc/vendor.yaml")
    (file,) = SpecReader(host).read(host.root / "etc/cdi")
    assert file.spec is not None
    assert file.is_link


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_is_no_regular_file_is_broken_and_hangs_nobody(tmp_path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(tmp_path / "a.yaml")
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "a.yaml"))
    (file,) = SpecReader(HostRoot(tmp_path)).read(tmp_path)
    assert file.fault == "cannot be read (no regular file: a runtime may hang on it)"


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "a.yaml").open("wb") as file:
        file.truncate(1 << 40)
    (found,) = SpecReader(HostRoot(tmp_path)).read(tmp_path)
    assert found.fault.endswith("larger than 4 MiB, which no spec is")


# --- resolving


def test_names_resolve_to_their_nodes_in_both_folders(host: HostRoot) -> None:
    (host.root / "etc/cdi/vendor.json").write_bytes(FOREIGN)
    (host.root / "run/cdi/nvidia.com-pgpu.yaml").write_bytes(spec_text(SPEC))
    resolution = SpecReader(host).resolve()
    assert resolution.nodes == {
        "vendor.com/gpu=a": ("/dev/a",),
        "nvidia.com/pgpu=65": ("/dev/vfio/65",),
        "nvidia.com/pgpu=0000:3b:00.0": ("/dev/vfio/65",),
    }
    assert resolution.problems == ()


def test_no_folder_resolves_nothing_without_a_problem(tmp_path: Path) -> None:
    resolution = SpecReader(HostRoot(tmp_path)).resolve()
    assert (dict(resolution.nodes), resolution.problems) == ({}, ())


def test_the_later_folder_wins(host: HostRoot) -> None:
    (host.root / "etc/cdi/a.yaml").write_bytes(foreign(node="/dev/static"))
    (host.root / "run/cdi/a.yaml").write_bytes(foreign(node="/dev/dynamic"))
    resolution = SpecReader(host).resolve()
    assert resolution.nodes == {"vendor.com/gpu=a": ("/dev/dynamic",)}
    assert resolution.problems == ()


def test_a_name_claimed_twice_in_one_folder_does_not_resolve_and_both_files_are_named(host: HostRoot) -> None:
    (host.root / "etc/cdi/0.yaml").write_bytes(foreign(node="/dev/static"))
    for name in ("a.yaml", "b.yaml"):
        (host.root / "run/cdi" / name).write_bytes(foreign(node=f"/dev/{name}"))
    resolution = SpecReader(host).resolve()
    assert resolution.nodes == {}
    assert [problem.code for problem in resolution.problems] == ["cdi-conflict", "cdi-conflict"]
    assert "run/cdi/a.yaml claims vendor.com/gpu=a" in resolution.problems[0].text
    assert "run/cdi/b.yaml claims vendor.com/gpu=a" in resolution.problems[1].text


def test_a_name_in_conflict_in_one_folder_does_not_resolve_though_the_later_folder_has_it_once(host: HostRoot) -> None:
    """Seen with podman 4.3: what was in conflict anywhere is dropped."""
    for name in ("a.yaml", "b.yaml"):
        (host.root / "etc/cdi" / name).write_bytes(foreign())
    (host.root / "run/cdi/c.yaml").write_bytes(foreign())
    resolution = SpecReader(host).resolve()
    assert resolution.nodes == {}
    assert [problem.code for problem in resolution.problems] == ["cdi-conflict", "cdi-conflict"]


def test_a_broken_file_is_a_problem_and_the_others_resolve(host: HostRoot) -> None:
    (host.root / "etc/cdi/broken.yaml").write_bytes(b"a: b\n\tc: d\n")
    (host.root / "etc/cdi/nowhere.yaml").symlink_to("nothing")
    (host.root / "run/cdi/a.yaml").write_bytes(foreign())
    resolution = SpecReader(host).resolve()
    assert set(resolution.nodes) == {"vendor.com/gpu=a"}
    assert [problem.code for problem in resolution.problems] == ["cdi-broken", "cdi-broken"]
    assert "etc/cdi/broken.yaml: line 2: neither" in resolution.problems[0].text
    assert "etc/cdi/nowhere.yaml: a link to nowhere" in resolution.problems[1].text


# --- carrying out


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "cdi").touch()
    step = WriteSpec(tmp_path / "cdi/x.yaml", b"", 1)
    with pytest.raises(NodeError, match=r"cannot write .*/cdi/x.yaml \(1 names\).*make .*/cdi writable"):
        apply(step)


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777], ids=oct)
def test_folders_that_are_made_are_open_to_all_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        apply(WriteSpec(tmp_path / "run/cdi/x.yaml", b"", 1))
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o7777 for path in (tmp_path / "run", tmp_path / "run/cdi")] == [0o755, 0o755]


def test_a_folder_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "cdi").mkdir(mode=0o700)
    apply(WriteSpec(tmp_path / "cdi/x.yaml", b"", 1))
    assert (tmp_path / "cdi").stat().st_mode & 0o777 == 0o700


def test_what_killed_writers_left_is_found_once_it_is_old_and_nothing_else(tmp_path: Path) -> None:
    names = (".nvidia.com-pgpu.yaml.a1b2.tmp", ".vendor.com-x.yaml.a1b2.tmp", "nvidia.com-pgpu.yaml", "x.tmp")
    for name in names:
        (tmp_path / name).touch()
    now = time.time()
    assert leftovers(tmp_path, now) == ()
    (step,) = leftovers(tmp_path, now + 120)
    assert str(step) == f"remove {tmp_path / names[0]}: a write that was cut short left it"
    assert leftovers(tmp_path / "nowhere", now) == ()


def test_what_is_gone_already_need_not_be_removed(tmp_path: Path) -> None:
    apply(RemoveSpec(tmp_path / "x.yaml"))
