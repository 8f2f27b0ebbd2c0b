"""`--cdi`: the spec is in place before the device is advertised, whoever writes it."""

from pathlib import Path

import pytest

from device_plugin.settings import CdiMode, Settings
from nodelib.cdi import specs_for
from nodelib.spec_files import spec_text
from nodelib.vfio import Naming, assignable_devices
from tests.device_plugin.small_node import PGPU, RunningPlugin, SmallNode
from tests.fakes.kubelet import Kubelet

FIRST = "0000:3b:00.0"
WRITE = Settings(cdi=CdiMode.WRITE, health_interval_s=60.0)
REQUIRE = Settings(cdi=CdiMode.REQUIRE, health_interval_s=60.0)


@pytest.fixture
def folder(small: SmallNode) -> Path:
    """Where /var/run leads on every distribution: through an absolute link."""
    (small.root / "run/cdi").mkdir(parents=True)
    (small.root / "var/run").symlink_to("/run")
    small.add(FIRST, 65)
    return small.root / "run/cdi"


def spec(small: SmallNode) -> bytes:
    """What kata-manager would write for the node as it is."""
    (found,) = specs_for(assignable_devices(small.node.scan(), Naming()))
    return spec_text(found)


def test_the_spec_is_the_one_that_kata_manager_would_write(small: SmallNode, folder: Path, kubelet: Kubelet) -> None:
    with RunningPlugin(small.node, WRITE):
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 1)
        file = folder / "nvidia.com-pgpu.yaml"
        assert file.read_bytes() == spec(small)
        assert file.stat().st_mode & 0o777 == 0o644
    assert file.exists(), "pods that were admitted still need it"


def test_the_spec_is_there_before_the_device_is(small: SmallNode, folder: Path, kubelet: Kubelet) -> None:
    """Row 11."""
    with RunningPlugin(small.node, WRITE):
        kubelet.wait_until(lambda: kubelet.capacity(PGPU) == 1)
        assert kubelet.allocatable(PGPU) == 1, "never advertised without a name, not even for a moment"


def test_a_spec_that_somebody_deletes_is_written_again(small: SmallNode, folder: Path, kubelet: Kubelet) -> None:
    with RunningPlugin(small.node, WRITE) as running:
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 1)
        (folder / "nvidia.com-pgpu.yaml").unlink()
        running.wait_until((folder / "nvidia.com-pgpu.yaml").exists)


def test_a_spec_that_cannot_be_written_holds_its_devices_back(small: SmallNode, folder: Path, kubelet: Kubelet) -> None:
    folder.rmdir()
    folder.write_text("a file where the folder should be")
    with RunningPlugin(small.node, WRITE) as running:
        kubelet.wait_until(lambda: kubelet.capacity(PGPU) == 1)
        running.wait_until(lambda: f"cannot list the CDI folder {folder}" in running.last.message)
        assert not running.last.ready
        assert kubelet.allocatable(PGPU) == 0


def test_a_foreign_file_in_our_place_is_left_alone_and_named(small: SmallNode, folder: Path, kubelet: Kubelet) -> None:
    foreign = folder / "nvidia.com-pgpu.yaml"
    foreign.write_text("cdiVersion: 0.5.0\nkind: a.com/b\ndevices: [{name: x, containerEdits: {env: [A=B]}}]\n")
    before = foreign.read_bytes()
    with RunningPlugin(small.node, WRITE) as running:
        running.wait_until(lambda: "somebody else's file where ours must go" in running.last.message)
        kubelet.wait_until(lambda: kubelet.capacity(PGPU) == 1)
        assert kubelet.allocatable(PGPU) == 0
    assert foreign.read_bytes() == before


def test_a_device_is_held_back_until_kata_manager_has_written_its_name(
    small: SmallNode, folder: Path, kubelet: Kubelet
) -> None:
    with RunningPlugin(small.node, REQUIRE) as running:
        kubelet.wait_until(lambda: kubelet.capacity(PGPU) == 1)
        assert kubelet.allocatable(PGPU) == 0
        running.wait_ready()
        (folder / "nvidia.com-pgpu.yaml").write_bytes(spec(small))
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 1)


def test_a_cdi_folder_that_comes_late_is_found(small: SmallNode, folder: Path, kubelet: Kubelet) -> None:
    folder.rmdir()
    with RunningPlugin(small.node, REQUIRE) as running:
        kubelet.wait_until(lambda: kubelet.capacity(PGPU) == 1)
        folder.mkdir()
        small.event()
        running.wait_until(lambda: running.plugin._watch._seen.get(folder) is not None)
        (folder / "nvidia.com-pgpu.yaml").write_bytes(spec(small))
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 1)


def test_one_broken_spec_holds_devices_back_and_is_named(small: SmallNode, folder: Path, kubelet: Kubelet) -> None:
    (folder / "nvidia.com-pgpu.yaml").write_bytes(spec(small))
    broken = folder / "broken.yaml"
    with RunningPlugin(small.node, REQUIRE) as running:
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 1)
        broken.write_text("kind: [")
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 0)
        ((device,),) = running.plugin.desired.values()
        assert str(broken) in device.problems[0].text
        broken.unlink()
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 1)


def test_two_specs_that_claim_one_name_hold_the_device_back(small: SmallNode, folder: Path, kubelet: Kubelet) -> None:
    for name in ("a.yaml", "b.yaml"):
        (folder / name).write_bytes(spec(small))
    with RunningPlugin(small.node, REQUIRE) as running:
        kubelet.wait_until(lambda: kubelet.capacity(PGPU) == 1)
        assert kubelet.allocatable(PGPU) == 0
        ((device,),) = running.plugin.desired.values()
        assert "cdi-conflict" in {problem.code for problem in device.problems}


def test_without_cdi_nothing_is_written_and_nothing_held_back(small: SmallNode, folder: Path, kubelet: Kubelet) -> None:
    (folder / "broken.yaml").write_text("kind: [")
    with RunningPlugin(small.node, Settings(cdi=CdiMode.OFF, health_interval_s=60.0)):
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 1)
    assert [path.name for path in folder.iterdir()] == ["broken.yaml"]


def test_field_37_a_spec_under_an_alias_of_before_is_taken_away_and_a_foreign_one_is_not(
    small: SmallNode, folder: Path, kubelet: Kubelet
) -> None:
    (folder / "nic.yaml").write_text(
        "cdiVersion: 0.5.0\nkind: a.com/b\ndevices: [{name: x, containerEdits: {env: [A=B]}}]\n"
    )
    with RunningPlugin(small.node, WRITE):
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 1)
    renamed = Settings(Naming(gpu_alias="gpu"), cdi=CdiMode.WRITE, health_interval_s=60.0)
    with RunningPlugin(small.node, renamed):
        kubelet.wait_until(lambda: kubelet.allocatable("nvidia.com/gpu") == 1)
    assert sorted(path.name for path in folder.iterdir()) == ["nic.yaml", "nvidia.com-gpu.yaml"]
