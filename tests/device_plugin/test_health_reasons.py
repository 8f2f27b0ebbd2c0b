"""Each reason why a device is not healthy: it shows at the kubelet with its code, and goes when it is mended."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from device_plugin.settings import CdiMode, Settings
from nodelib.cdi import specs_for
from nodelib.spec_files import spec_text
from nodelib.vfio import Naming, VfioMode, assignable_devices
from tests.device_plugin.small_node import ANSWERING, GONE, PGPU, RunningPlugin, SmallNode
from tests.fakes.kubelet import Kubelet

GPU, AUDIO, OTHER = "0000:3b:00.0", "0000:3b:00.1", "0000:5e:00.0"
SPEC = "var/run/cdi/nvidia.com-pgpu.yaml"
Do = Callable[[SmallNode], object]


@dataclass(frozen=True)
class Case:
    """What brings a reason about and what takes it away; the node is well before and after."""

    code: str
    spoil: Do
    mend: Do
    mode: VfioMode = VfioMode.AUTO
    cdi: CdiMode = CdiMode.OFF


def config(content: bytes) -> Do:
    return lambda small: (small.folder(GPU) / "config").write_bytes(content)


def config_as_folder(small: SmallNode) -> None:
    (small.folder(GPU) / "config").unlink()
    (small.folder(GPU) / "config").mkdir()


def config_as_file(small: SmallNode) -> None:
    (small.folder(GPU) / "config").rmdir()
    config(ANSWERING)(small)


def config_that_blocks(small: SmallNode) -> None:
    """To open a FIFO waits for a writer, as a read of `config` waits for the end of a reset."""
    (small.folder(GPU) / "config").unlink()
    os.mkfifo(small.folder(GPU) / "config")


def config_that_answers(small: SmallNode) -> None:
    fifo = small.folder(GPU) / "config"
    descriptor = os.open(fifo, os.O_RDWR)  # lets go of who waits
    fifo.unlink()
    config(ANSWERING)(small)
    os.write(descriptor, ANSWERING)
    os.close(descriptor)


def host_driver(small: SmallNode) -> None:
    small.unbind(AUDIO)
    (small.root / "sys/class/vfio/65").touch()  # the GPU's own function still has it
    small.bind(AUDIO, "snd_hda_intel")


def vfio_driver(small: SmallNode) -> None:
    (small.folder(AUDIO) / "driver").unlink()
    small.bind(AUDIO, "vfio-pci")


def group_name(small: SmallNode) -> Path:
    return small.root / "sys/kernel/iommu_groups/65/name"


def without_cdev(small: SmallNode) -> None:
    shutil.rmtree(small.folder(GPU) / "vfio-dev/vfio0")


def with_cdev(small: SmallNode) -> None:
    (small.folder(GPU) / "vfio-dev/vfio0").mkdir()
    (small.folder(GPU) / "vfio-dev/vfio0/dev").write_text("511:0\n")


def write_spec(small: SmallNode) -> None:
    """As kata-manager does."""
    (found,) = specs_for(assignable_devices(small.node.scan(), Naming()))
    (small.root / SPEC).write_bytes(spec_text(found))


def spec_without_names(small: SmallNode) -> None:
    (small.root / SPEC).unlink()


def spec_of_another_node(small: SmallNode) -> None:
    (small.root / SPEC).write_text((small.root / SPEC).read_text().replace("vfio0", "vfio9"))


def second_spec(content: Callable[[SmallNode], str]) -> Do:
    return lambda small: (small.root / "var/run/cdi/other.yaml").write_text(content(small))


def same_spec(small: SmallNode) -> str:
    return (small.root / SPEC).read_text()


def no_second_spec(small: SmallNode) -> None:
    (small.root / "var/run/cdi/other.yaml").unlink()


def folder_as_file(small: SmallNode) -> None:
    shutil.move(small.root / "var/run/cdi", small.root / "var/run/aside")
    (small.root / "var/run/cdi").touch()


def folder_as_folder(small: SmallNode) -> None:
    (small.root / "var/run/cdi").unlink()
    shutil.move(small.root / "var/run/aside", small.root / "var/run/cdi")


def replug(small: SmallNode) -> None:
    small.add(GPU, 65, cdev="vfio0")


CASES = [
    Case("absent", lambda small: small.unplug(GPU), replug),
    Case("not-bound", lambda small: small.unbind(GPU), lambda small: small.bind(GPU, "vfio-pci", "vfio0")),
    Case("foreign-driver", host_driver, vfio_driver),
    Case(
        "no-iommu-group",
        lambda small: group_name(small).write_text("vfio-noiommu\n"),
        lambda small: group_name(small).unlink(),
    ),
    Case(
        "member-unreadable",
        lambda small: small.write(AUDIO, "class", "garbage"),
        lambda small: small.write(AUDIO, "class", "0x040300"),
    ),
    Case("no-cdev", without_cdev, with_cdev, mode=VfioMode.IOMMUFD),
    Case(
        "no-group-node",
        lambda small: (small.root / "sys/class/vfio/65").unlink(),
        lambda small: (small.root / "sys/class/vfio/65").touch(),
        mode=VfioMode.LEGACY,
    ),
    Case(
        "no-node-file",
        lambda small: (small.root / "dev/vfio/devices/vfio0").unlink(),
        lambda small: (small.root / "dev/vfio/devices/vfio0").touch(),
    ),
    Case("config-gone", config(GONE), config(ANSWERING)),
    Case("config-unreadable", config_as_folder, config_as_file),
    Case("config-hung", config_that_blocks, config_that_answers),
    Case("cdi-unresolved", spec_without_names, write_spec, cdi=CdiMode.REQUIRE),
    Case("cdi-stale", spec_of_another_node, write_spec, cdi=CdiMode.REQUIRE),
    Case("cdi-broken", second_spec(lambda _small: "kind: ["), no_second_spec, cdi=CdiMode.REQUIRE),
    Case("cdi-conflict", second_spec(same_spec), no_second_spec, cdi=CdiMode.REQUIRE),
    Case("cdi-unreadable", folder_as_file, folder_as_folder, cdi=CdiMode.REQUIRE),
]


@pytest.fixture
def whole(small: SmallNode) -> SmallNode:
    """A GPU with a companion and a cdev, another GPU, the host's /dev, and the specs: all is well."""
    small.add(GPU, 65, cdev="vfio0")
    small.add(AUDIO, 65, device="0x22be", pci_class="0x040300")
    small.add(OTHER, 66, cdev="vfio1")
    for name in ("null", "vfio/65", "vfio/66", "vfio/devices/vfio0", "vfio/devices/vfio1"):
        path = small.root / "dev" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (small.root / SPEC).parent.mkdir(parents=True)
    write_spec(small)
    return small


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.code)
def test_a_device_is_held_back_with_the_reason_and_given_again_when_that_is_mended(
    case: Case, whole: SmallNode, kubelet: Kubelet
) -> None:
    settings = Settings(Naming(vfio_mode=case.mode), cdi=case.cdi, health_interval_s=0.2)

    def codes(running: RunningPlugin) -> set[str]:
        devices = [device for found in running.plugin.desired.values() for device in found if device.id == "65"]
        return {problem.code for device in devices for problem in device.problems}

    with RunningPlugin(whole.node, settings) as running:
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2)
        case.spoil(whole)
        whole.event()
        kubelet.wait_until(lambda: "65" in kubelet.devices(PGPU) and not kubelet.devices(PGPU)["65"].healthy)
        running.wait_until(lambda: case.code in codes(running))
        assert kubelet.capacity(PGPU) == 2, "capacity counts it all the same"
        case.mend(whole)
        whole.event()
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2)
        assert codes(running) == set()
