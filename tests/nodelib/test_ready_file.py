"""The file by which an agent tells others that it is done."""

from pathlib import Path

import pytest

from nodelib.errors import NodeError
from nodelib.files import HostRoot
from nodelib.ready_file import ReadyFile

PATH = "/var/run/nvidia/validations/vfio-pci-ready"


@pytest.fixture
def host(tmp_path: Path) -> HostRoot:
    (tmp_path / "var").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "var/run").symlink_to("/run")
    return HostRoot(tmp_path)


def test_the_file_is_there_while_all_is_done_and_gone_otherwise(host: HostRoot) -> None:
    path = host.root / "run/nvidia/validations/vfio-pci-ready"
    file = ReadyFile(host, PATH)
    file.tell(ready=False)
    assert not path.exists()
    file.tell(ready=True)
    assert path.read_bytes() == b""
    assert path.stat().st_mode & 0o777 == 0o644
    file.tell(ready=True)
    file.tell(ready=False)
    assert not path.exists()


def test_it_is_retracted_at_the_end_whether_it_is_there_or_not(host: HostRoot) -> None:
    file = ReadyFile(host, PATH)
    file.tell(ready=True)
    file.retract()
    file.retract()
    assert not (host.root / "run/nvidia/validations/vfio-pci-ready").exists()


def test_no_path_means_no_file(host: HostRoot) -> None:
    before = sorted(host.root.rglob("*"))
    file = ReadyFile(host, "")
    file.tell(ready=True)
    file.tell(ready=False)
    file.retract()
    assert sorted(host.root.rglob("*")) == before


def test_a_file_that_cannot_be_written_is_an_error_with_the_remedy(host: HostRoot) -> None:
    (host.root / "run/nvidia").touch()
    file = ReadyFile(host, PATH)
    with pytest.raises(
        NodeError, match=r"cannot write the ready file .*vfio-pci-ready \(.*\): mount its folder writable"
    ):
        file.tell(ready=True)
    file.tell(ready=False)  # what could not be written is not there
