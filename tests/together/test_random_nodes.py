"""On whatever node: the specs resolve every id that device-plugin advertises, to that very device. Issue 4, proof."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device_plugin.inventory import by_resource
from device_plugin.settings import CdiMode
from device_plugin.specs import Specs
from kata_manager.check import check
from kata_manager.reconcile import SpecKeeper
from kata_manager.settings import Settings
from nodelib.nvidia import VENDOR_NVIDIA
from nodelib.spec_files import FOLDERS
from nodelib.vfio import AssignableDevice, Naming, VfioMode, assignable_devices
from tests.fakes.kernel import FakeKernel
from tests.fakes.parts import (
    B200,
    CLASS_AUDIO,
    CLASS_NIC,
    GH200,
    H100_PCIE,
    H100_SXM,
    L40S,
    MELLANOX,
    gpu,
    nvswitch,
    other,
)
from tests.nodelib.samples import PROPERTY

UNKNOWN_MODEL = 0xFFF0
GPU_DRIVERS = ["vfio-pci"] * 4 + ["nvidia", None]
"""Most are bound, as they are once vfio-manager is done."""


@dataclass(frozen=True, slots=True)
class Slot:
    """What is plugged into one slot, and in which group."""

    kind: str
    """`gpu`, `nvswitch`, or `nic`, which is nobody's."""
    group: int
    model: int = H100_SXM
    driver: str | None = "vfio-pci"
    has_audio: bool = False


SLOTS = st.builds(
    Slot,
    kind=st.sampled_from(["gpu", "gpu", "gpu", "nvswitch", "nic"]),
    group=st.integers(0, 12),  # small, so that slots share groups, and indices meet group numbers
    model=st.sampled_from([H100_SXM, H100_PCIE, L40S, B200, GH200, UNKNOWN_MODEL]),
    driver=st.sampled_from(GPU_DRIVERS),
    has_audio=st.booleans(),
)
NAMINGS = st.builds(
    Naming,
    gpu_alias=st.sampled_from(["pgpu", "", "gpu"]),
    nvswitch_alias=st.sampled_from(["nvswitch", ""]),
    vfio_mode=st.sampled_from(VfioMode),
)


@contextmanager
def node_of(slots: list[Slot], *, cdevs: bool) -> Iterator[FakeKernel]:
    with tempfile.TemporaryDirectory(dir=_memory()) as folder, FakeKernel(Path(folder), vfio_cdevs=cdevs) as kernel:
        for number, slot in enumerate(slots):
            address = f"0000:{number + 1:02x}:00"
            match slot.kind:
                case "gpu":
                    kernel.add_device(gpu(f"{address}.0", slot.model, group=slot.group), driver=slot.driver)
                    if slot.has_audio:
                        audio = other(f"{address}.1", VENDOR_NVIDIA, 0x22BE, CLASS_AUDIO, group=slot.group)
                        kernel.add_device(audio, driver=slot.driver and "vfio-pci")
                case "nvswitch":
                    kernel.add_device(nvswitch(f"{address}.0", group=slot.group), driver=slot.driver and "vfio-pci")
                case _:
                    # Alone in its group: it would only keep others from being given away.
                    kernel.add_device(other(f"{address}.0", MELLANOX, 0x1021, CLASS_NIC, group=20 + number))
        yield kernel


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def advertised(kernel: FakeKernel, naming: Naming) -> dict[str, AssignableDevice]:
    """What device-plugin would tell the kubelet, by the names that Kata makes of it; by its own planning."""
    devices, troubles = Specs(kernel.host, CdiMode.REQUIRE).check(
        assignable_devices(kernel.node().scan(with_config=True), naming)
    )
    assert troubles == ()
    return {f"{resource}={device.id}": device for resource, group in by_resource(devices).items() for device in group}


@settings(PROPERTY, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(SLOTS, max_size=8), NAMINGS, st.booleans())
def test_every_advertised_id_resolves_to_its_own_device_on_any_node(
    slots: list[Slot], naming: Naming, cdevs: bool
) -> None:
    with node_of(slots, cdevs=cdevs) as kernel:
        keeper = SpecKeeper(kernel.node(), Settings(naming))
        keeper.write()
        resolution = keeper.resolution()
        assert resolution.problems == ()
        offered = advertised(kernel, naming)
        for name, device in offered.items():
            if device.is_healthy:
                assert resolution.nodes[name] == device.spec_nodes
                assert set(device.spec_nodes) <= set(device.allocate_nodes)
            assert not {"/dev/vfio/vfio", "/dev/iommu"} & set(device.spec_nodes)  # rows 9 and 10
            backends = {node.startswith("/dev/vfio/devices/") for node in device.spec_nodes}
            assert len(backends) <= 1, "both interfaces of one device"
        owner = {node: device.id for device in offered.values() for node in device.spec_nodes}
        for name, nodes in resolution.nodes.items():
            kind, _, further = name.partition("=")
            (of_device,) = {owner[node] for node in nodes}
            assert f"{kind}={of_device}" in offered, "a name of another resource's device"
            if further.isdigit() and int(further) in kernel.node().scan().group_numbers:
                assert further == of_device, "row 43: a further name is another group's number"
        assert check(kernel.node(), (), FOLDERS).findings == ()


@settings(PROPERTY, max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(SLOTS, min_size=1, max_size=6), NAMINGS, st.booleans())
def test_a_second_run_and_the_other_agent_find_nothing_to_do(slots: list[Slot], naming: Naming, cdevs: bool) -> None:
    with node_of(slots, cdevs=cdevs) as kernel:
        SpecKeeper(kernel.node(), Settings(naming)).write()
        folder = kernel.host.root / "var/run/cdi"
        before = {path.name: path.read_bytes() for path in folder.glob("*")}
        assert SpecKeeper(kernel.node(), Settings(naming)).write().steps == ()
        devices = assignable_devices(kernel.node().scan(), naming)
        assert Specs(kernel.host, CdiMode.WRITE).plan(devices).steps == (), "device-plugin --cdi write writes the same"
        for path in folder.glob("*"):
            path.unlink()
        SpecKeeper(kernel.node(), Settings(naming)).write()
        assert {path.name: path.read_bytes() for path in folder.glob("*")} == before
