"""The host's files. DESIGN section 2 (`--host-root`); field problem 37."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodelib.errors import InvalidValue
from nodelib.files import HostRoot, ensure_file, write_whole
from tests.nodelib.samples import PROPERTY

# --- paths below the root


@pytest.fixture
def host(tmp_path: Path) -> HostRoot:
    root = tmp_path / "host"
    (root / "run/cdi").mkdir(parents=True)
    (root / "var").mkdir()
    return HostRoot(root)


def test_a_plain_path_lies_below_the_root(host: HostRoot) -> None:
    assert host.resolve("/run/cdi") == host.root / "run/cdi"
    assert host.resolve("run/./cdi") == host.root / "run/cdi"
    assert host.resolve("/") == host.root


def test_what_does_not_exist_is_resolved_too(host: HostRoot) -> None:
    assert host.resolve("/etc/cdi/nvidia.yaml") == host.root / "etc/cdi/nvidia.yaml"


def test_a_link_to_an_absolute_path_stays_inside(host: HostRoot) -> None:
    """On most hosts /var/run is a link to /run, which must not lead to the container's own."""
    (host.root / "var/run").symlink_to("/run")
    assert host.resolve("/var/run/cdi") == host.root / "run/cdi"


def test_a_relative_link_is_followed_from_where_it_lies(host: HostRoot) -> None:
    (host.root / "var/run").symlink_to("../run")
    assert host.resolve("/var/run/cdi") == host.root / "run/cdi"
    assert host.resolve("/var/run/..") == host.root  # the parent of where the link leads


def test_links_to_links_are_followed(host: HostRoot) -> None:
    (host.root / "var/run").symlink_to("/var/other")
    (host.root / "var/other").symlink_to("../run")
    (host.root / "run/cdi/last").symlink_to("/dev")
    assert host.resolve("/var/run/cdi/last") == host.root / "dev"


@pytest.mark.parametrize("path", ["/..", "/../../etc", "var/../../..", "/out", "/var/up/.."])
def test_nothing_leads_out_of_the_root(host: HostRoot, path: str) -> None:
    (host.root / "out").symlink_to("../../../../../..")
    (host.root / "var/up").symlink_to("../..")
    assert host.resolve(path).is_relative_to(host.root)


def test_links_in_a_circle_are_refused_by_name(host: HostRoot) -> None:
    (host.root / "var/run").symlink_to("/var/other")
    (host.root / "var/other").symlink_to("run")
    with pytest.raises(InvalidValue, match=r"/var/run/cdi below .* goes through too many links"):
        host.resolve("/var/run/cdi")


def test_as_many_links_are_followed_as_the_kernel_follows(host: HostRoot) -> None:
    """path_resolution(7): 40."""
    for number in range(41):
        (host.root / f"link{number}").symlink_to(f"link{number - 1}" if number else "/run")
    assert host.resolve("/link39/cdi") == host.root / "run/cdi"
    with pytest.raises(InvalidValue, match="too many links"):
        host.resolve("/link40/cdi")


NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.builds(
    lambda start, parts: start + "/".join(parts),
    st.sampled_from(["", "/"]),
    st.lists(NAMES | st.sampled_from(["..", "."]), min_size=1, max_size=5),
)


@settings(PROPERTY, max_examples=60)  # each makes a tree of files
@given(links=st.dictionaries(st.tuples(NAMES, NAMES), PATHS, max_size=4), path=PATHS)
def test_whatever_the_links_nothing_is_found_outside_the_root(
    tmp_path_factory: pytest.TempPathFactory, links: dict[tuple[str, str], str], path: str
) -> None:
    root = tmp_path_factory.mktemp("host")
    for (folder, name), target in links.items():
        (root / folder).mkdir(exist_ok=True)
        (root / folder / name).symlink_to(target)
    try:
        place = HostRoot(root).resolve(path)
    except InvalidValue:
        return  # a circle
    assert place.is_relative_to(root)
    assert ".." not in place.parts
    assert place.resolve() == place  # no link is left in it


def test_a_root_that_is_no_folder_is_refused_with_the_flag(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(InvalidValue, match=f"host root {root} is not a folder: give --host-root"):
            HostRoot(root)


def test_dev_is_judged_by_only_where_it_is_the_hosts(host: HostRoot, tmp_path: Path) -> None:
    """Inside a container, /dev is the container's own, which never gains a node."""
    assert not host.shows_dev
    (host.root / "dev").mkdir()
    assert not host.shows_dev, "a mount of the host's root alone has an empty folder there"
    (host.root / "dev/null").touch()
    assert host.shows_dev
    (tmp_path / "root").symlink_to("/")
    for own in (Path("/"), Path("//"), Path("/dev/.."), tmp_path / "root"):
        assert not HostRoot(own).shows_dev


# --- files that appear whole


@pytest.fixture
def strict_umask() -> Iterator[None]:
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def test_a_file_is_readable_by_all_whatever_the_umask(tmp_path: Path, strict_umask: None) -> None:
    """Field problem 37: specs of mode 0600."""
    path = tmp_path / "nvidia.com-pgpu.yaml"
    write_whole(path, b"content")
    assert path.read_bytes() == b"content"
    assert path.stat().st_mode & 0o777 == 0o644
    write_whole(path, b"content", mode=0o600)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes(b"old and longer")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    target, path = tmp_path / "target", tmp_path / "spec.yaml"
    target.write_bytes(b"somebody else's")
    path.symlink_to(target)
    write_whole(path, b"ours")
    assert not path.is_symlink()
    assert (path.read_bytes(), target.read_bytes()) == (b"ours", b"somebody else's")


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    """A folder in the file's place refuses the rename, the last of the steps."""
    path = tmp_path / "spec.yaml"
    (path / "inside").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        write_whole(path, b"new")
    assert list(tmp_path.iterdir()) == [path]
    assert list(path.iterdir()) == [path / "inside"]


def test_a_missing_folder_is_an_error_and_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "cdi/spec.yaml", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_reader_finds_the_old_content_or_the_new_and_no_spec_reader_finds_the_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    contents = [bytes([65 + i]) * 20_000 for i in range(20)]
    write_whole(path, contents[0])
    ended = threading.Event()
    seen: set[bytes] = set()
    names: set[str] = set()

    def read() -> None:
        while not ended.is_set():
            seen.add(path.read_bytes())
            names.update(found.name for found in tmp_path.iterdir())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for content in contents:
            write_whole(path, content)
    finally:
        ended.set()
        reader.join()
    assert seen <= set(contents)
    assert [name for name in names if name.endswith((".yaml", ".json"))] == ["spec.yaml"]


# --- files that are written only when they differ


def test_a_file_is_written_only_when_it_differs(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    assert ensure_file(path, b"one")
    inode = path.stat().st_ino
    assert not ensure_file(path, b"one")
    assert path.stat().st_ino == inode
    assert ensure_file(path, b"two")
    assert path.read_bytes() == b"two"


def test_a_wrong_mode_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_bytes(b"one")
    path.chmod(0o600)
    assert ensure_file(path, b"one")
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_link_to_the_same_content_is_replaced(tmp_path: Path) -> None:
    target, path = tmp_path / "target", tmp_path / "spec.yaml"
    target.write_bytes(b"one")
    target.chmod(0o644)
    path.symlink_to(target)
    assert ensure_file(path, b"one")
    assert not path.is_symlink()
