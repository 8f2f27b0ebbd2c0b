"""What `bind` does to a node: the drivers that are read back, the order of the writes, and what stays as it is."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nodelib.nvidia import VENDOR_NVIDIA
from nodelib.pci import PciAddress
from tests.fakes.kernel import FakeKernel
from tests.fakes.parts import GH200, NVSWITCH_3, gpu, nvswitch
from tests.fakes.topologies import build
from tests.vfio_manager.builders import (
    AUDIO,
    BOUND,
    GPU,
    OTHER_GPU,
    Shown,
    add_card,
    add_other_gpu,
    bind,
    driver_of,
    planned,
    shown,
    writes_for,
)
from vfio_manager.reconcile import Binder
from vfio_manager.settings import Settings, SwitchPolicy

GH200_VFIO = "nvgrace_gpu_vfio_pci"


def nvidia_endpoints(kernel: FakeKernel) -> dict[str, int]:
    """Address and device id of NVIDIA's functions, read without the agents' code."""
    folders = (kernel.host.root / "sys/bus/pci/devices").iterdir()
    return {
        folder.name: int((folder / "device").read_text(), 16)
        for folder in folders
        if int((folder / "vendor").read_text(), 16) == VENDOR_NVIDIA
    }


@pytest.fixture
def node_at(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[FakeKernel]:
    with build(str(request.param), tmp_path) as kernel:
        yield kernel
        assert kernel.complaints == []


@pytest.mark.parametrize("node_at", ["dgx-h100", "gh200", "workstation", "shared-group", "mixed"], indirect=True)
def test_every_function_of_a_node_reads_back_bound_and_a_second_run_has_nothing_to_do(node_at: FakeKernel) -> None:
    # facts/field-problems.md, rows 6, 7, 22, 32 and 33; DESIGN, section 2
    before = {address: driver_of(node_at, address) for address in node_at.addresses}
    ours = nvidia_endpoints(node_at)
    assert bind(node_at) == []
    for address in node_at.addresses:
        wanted = GH200_VFIO if ours.get(str(address)) == GH200 else "vfio-pci"
        assert driver_of(node_at, address) == (wanted if str(address) in ours else before[address]), address
    written = list(node_at.writes)
    assert bind(node_at) == []
    assert planned(Binder(node_at.node(), Settings())) == []
    assert node_at.writes == written, "the second run wrote something"


def test_a_node_without_an_iommu_is_told_so_and_nothing_is_written(tmp_path: Path) -> None:
    # facts/field-problems.md, row 23
    with build("h200-vm", tmp_path) as kernel:
        (reason,) = bind(kernel)
        assert reason.startswith("0000:00:06.0: it is in no IOMMU group")
        assert kernel.writes == []


def test_the_writes_for_one_function_come_in_the_order_of_the_design(kernel: FakeKernel) -> None:
    # DESIGN, section 4; facts/field-problems.md, row 20
    assert bind(kernel) == []
    for address, driver in ((GPU, "nvidia"), (AUDIO, "snd_hda_intel"), (OTHER_GPU, "nvidia")):
        assert writes_for(kernel, address) == [
            "d3cold_allowed=0",
            "driver_override=vfio-pci",
            f"unbind {driver}",
            "bind vfio-pci",
            "power/control=on",
        ]


def test_a_gpu_does_not_get_stuck_in_d3cold(kernel: FakeKernel) -> None:
    # facts/field-problems.md, row 20: the bind sets power/control to auto, whatever it was
    assert bind(kernel) == []
    assert [shown(kernel, address) for address in (GPU, AUDIO, OTHER_GPU)] == [BOUND] * 3
    device = kernel.sysfs().pci_device(GPU)
    assert device.power_state == "D0"


def test_a_bound_gpu_that_was_left_asleep_is_woken_without_being_unbound(bare_kernel: FakeKernel) -> None:
    # facts/field-problems.md, row 20
    add_other_gpu(bare_kernel, on="vfio-pci")
    assert shown(bare_kernel, OTHER_GPU) == Shown("vfio-pci", power_control="auto")
    assert bind(bare_kernel) == []
    assert writes_for(bare_kernel, OTHER_GPU) == ["d3cold_allowed=0", "power/control=on"]


def test_the_first_run_on_a_node_without_any_driver_binds_too(bare_kernel: FakeKernel) -> None:
    add_card(bare_kernel, on=None, audio_on=None)
    assert bind(bare_kernel) == []
    assert writes_for(bare_kernel, GPU) == [
        "d3cold_allowed=0",
        "driver_override=vfio-pci",
        "bind vfio-pci",
        "power/control=on",
    ]
    assert [driver_of(bare_kernel, address) for address in (GPU, AUDIO)] == ["vfio-pci"] * 2


@pytest.mark.parametrize(
    ("policy", "driver"),
    [
        (SwitchPolicy.AUTO, "nvidia-nvswitch"),
        (SwitchPolicy.ALWAYS, "vfio-pci"),
        (SwitchPolicy.NEVER, "nvidia-nvswitch"),
    ],
)
def test_an_nvswitch_on_its_driver_moves_only_when_it_is_wanted(
    bare_kernel: FakeKernel, policy: SwitchPolicy, driver: str
) -> None:
    # facts/field-problems.md, row 33
    switch = bare_kernel.add_device(nvswitch("0000:07:00.0", group=7), driver="nvidia-nvswitch")
    assert nvidia_endpoints(bare_kernel) == {str(switch): NVSWITCH_3}
    assert bind(bare_kernel, nvswitches=policy) == []
    assert driver_of(bare_kernel, switch) == driver


def test_one_device_by_address_takes_its_slot_along_and_leaves_the_others(kernel: FakeKernel) -> None:
    assert bind(kernel, only=frozenset({AUDIO})) == []
    assert [driver_of(kernel, address) for address in (GPU, AUDIO, OTHER_GPU)] == ["vfio-pci", "vfio-pci", "nvidia"]


def test_the_driver_that_is_forced_goes_before_the_kernels_choice(tmp_path: Path) -> None:
    with build("gh200", tmp_path) as kernel:
        assert bind(kernel, driver="vfio_pci") == []
        (grace,) = (PciAddress.parse(name) for name in nvidia_endpoints(kernel))
        assert driver_of(kernel, grace) == "vfio-pci"
        assert bind(kernel) == []
        assert driver_of(kernel, grace) == GH200_VFIO, "moved from one VFIO driver to the other"
        assert writes_for(kernel, grace)[-4:] == [
            f"driver_override={GH200_VFIO}",
            "unbind vfio-pci",
            f"bind {GH200_VFIO}",
            "power/control=on",
        ]


def test_a_variant_driver_that_is_not_loaded_is_loaded_first(bare_kernel: FakeKernel) -> None:
    # facts/field-problems.md, row 32
    add_other_gpu(bare_kernel)
    assert GH200_VFIO not in bare_kernel.sysfs().drivers()
    assert bind(bare_kernel, driver=GH200_VFIO) == []
    assert driver_of(bare_kernel, OTHER_GPU) == GH200_VFIO


def test_a_driver_that_does_not_load_is_named_with_modprobes_words_and_the_device_keeps_its_own(
    bare_kernel: FakeKernel,
) -> None:
    add_other_gpu(bare_kernel)
    (reason,) = bind(bare_kernel, driver="ghost_vfio_pci")
    assert reason.startswith(f"{OTHER_GPU}: could not load the kernel module ghost_vfio_pci: modprobe: FATAL: Module")
    assert driver_of(bare_kernel, OTHER_GPU) == "nvidia"
    assert bare_kernel.writes == []


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00 garbage\nalias vfio_pci:\n"])
def test_without_a_usable_modules_alias_the_driver_is_vfio_pci(kernel: FakeKernel, content: bytes | None) -> None:
    aliases = kernel.host.root / "lib/modules/6.12/modules.alias"
    if content is None:
        aliases.unlink()
    else:
        aliases.write_bytes(content)
    assert bind(kernel) == []
    assert driver_of(kernel, GPU) == "vfio-pci"


def test_a_vfio_driver_of_a_kernel_before_6_1_is_known_by_its_name(tmp_path: Path) -> None:
    # facts/kubelet-cdi-kata-contract.md, "VFIO device nodes": no vfio-dev/ there
    with FakeKernel(tmp_path, release="5.15") as kernel:
        add_card(kernel)
        assert bind(kernel) == []
        with kernel.start_vm(GPU):
            written = list(kernel.writes)
            assert bind(kernel) == []
            assert Binder(kernel.node(), Settings()).release().reasons
            assert kernel.writes == written


def test_neither_a_physical_function_with_virtual_functions_nor_those_are_bound_away(bare_kernel: FakeKernel) -> None:
    # facts/field-problems.md, row 40
    card = bare_kernel.add_device(replace(gpu("0000:3b:00.0", group=65), vf_count=1), driver="nvidia")
    of_card = replace(gpu("0000:3b:00.4", group=66), physical_function=card)
    virtual = bare_kernel.add_device(of_card, driver="nvidia")
    (reason,) = bind(bare_kernel)
    assert reason.startswith(f"{card}: 1 virtual functions of it are on")
    assert bare_kernel.writes == []
    assert bind(bare_kernel, include_vfs=True) == [reason]
    assert [driver_of(bare_kernel, address) for address in (card, virtual)] == ["nvidia", "vfio-pci"]


def test_zero_devices_is_a_state_and_no_error(bare_kernel: FakeKernel) -> None:
    assert bind(bare_kernel) == []
    assert bare_kernel.writes == []
