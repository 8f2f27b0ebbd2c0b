"""Which devices are supported and where their registers are."""

import pytest

from cc_manager.errors import UnsupportedDevice
from cc_manager.gpu.chips import (
    BLACKWELL_GB1XX,
    BLACKWELL_GB20X,
    HOPPER_GPU,
    NVSWITCH_GEN3,
    BitField,
    Part,
    part_of,
)
from cc_manager.gpu.knobs import Knob
from cc_manager.mode import CcMode, ModeBits
from nodelib.pci import PciDevice
from tests.cc_manager.scripted import ADDRESS

GPU_3D, GPU_VGA, SWITCH, AUDIO = 0x030200, 0x030000, 0x068000, 0x040300


def nvidia(device: int, pci_class: int, name: str | None = None) -> PciDevice:
    return PciDevice(ADDRESS, vendor=0x10DE, device=device, pci_class=pci_class, name=name)


@pytest.mark.parametrize("device", [0x22F0, 0x2330, 0x2335, 0x2342, 0x237F])
@pytest.mark.parametrize("pci_class", [GPU_3D, GPU_VGA])
def test_hopper_gpus_are_known_by_their_device_id(device: int, pci_class: int) -> None:
    assert part_of(nvidia(device, pci_class)) is HOPPER_GPU


@pytest.mark.parametrize("device", [0x2900, 0x2901, 0x297F, 0x2980, 0x29FF, 0x3180, 0x31FF, 0x3200, 0x327F])
def test_gb10x_and_gb11x_gpus_are_known_by_their_device_id(device: int) -> None:
    assert part_of(nvidia(device, GPU_3D)) is BLACKWELL_GB1XX


@pytest.mark.parametrize("device", [0x2B80, 0x2BFF, 0x2C00, 0x2C7F, 0x2F00, 0x2F7F, 0x2D00, 0x2D7F, 0x2D80, 0x2DFF])
def test_gb20x_gpus_are_known_by_their_device_id(device: int) -> None:
    assert part_of(nvidia(device, GPU_VGA)) is BLACKWELL_GB20X


@pytest.mark.parametrize(
    "device", [0x22EF, 0x2380, 0x28FF, 0x2A00, 0x2B7F, 0x2C80, 0x2E00, 0x2EFF, 0x2F80, 0x317F, 0x3280]
)
def test_ids_just_outside_the_ranges_are_not_known(device: int) -> None:
    with pytest.raises(UnsupportedDevice, match="is not known"):
        part_of(nvidia(device, GPU_3D))


@pytest.mark.parametrize(("name", "part"), [("GB110", BLACKWELL_GB1XX), ("GB203 [RTX PRO]", BLACKWELL_GB20X)])
def test_a_blackwell_gpu_outside_the_table_is_known_by_its_name(name: str, part: Part) -> None:
    assert part_of(nvidia(0x4000, GPU_3D, name)) is part


def test_a_gpu_outside_the_table_is_known_by_its_name_in_the_database() -> None:
    assert part_of(nvidia(0x4000, GPU_3D, "GH100 [H300]")) is HOPPER_GPU


def test_a_switch_is_known_by_its_class() -> None:
    assert part_of(nvidia(0x22A3, SWITCH)) is NVSWITCH_GEN3


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        (nvidia(0x2237, GPU_3D), "the chip of device id 0x2237 is not known"),
        (nvidia(0x4000, GPU_3D, "GB120 [B900]"), "the chip of device id 0x4000 is not known"),
        (nvidia(0x22B8, AUDIO, "GH100 [High Definition Audio]"), "it is no GPU or NVSwitch but a companion"),
    ],
)
def test_anything_else_is_refused_with_the_reason(device: PciDevice, reason: str) -> None:
    with pytest.raises(UnsupportedDevice) as caught:
        part_of(device)
    assert str(caught.value) == f"0000:3b:00.0: {reason}"
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("word", "bits"),
    [
        (0x0000_0000, ModeBits(0b00)),
        (0x0000_0001, ModeBits(0b01)),
        (0x0000_0003, ModeBits(0b11)),
        (0x0000_0002, ModeBits(0b10)),
        (0x0000_0020, ModeBits(0b00, ppcie=True)),
        (0x0000_0021, ModeBits(0b01, ppcie=True)),
        (0xFFFF_FFDC, ModeBits(0b00)),
        (0xFFFF_FFFD, ModeBits(0b01, ppcie=True)),
    ],
)
def test_both_fields_of_a_hopper_gpus_mode_register_count_and_no_other_bit(word: int, bits: ModeBits) -> None:
    assert HOPPER_GPU.mode_registers == (0x1182CC,)
    assert HOPPER_GPU.mode_bits({0x1182CC: word}) == bits


@pytest.mark.parametrize("part", [BLACKWELL_GB1XX, BLACKWELL_GB20X])
@pytest.mark.parametrize(
    ("word", "bits", "decoupled"),
    [(0x0, 0b00, 0), (0x1, 0b01, 0), (0x5, 0b01, 1), (0x3, 0b11, 0), (0x2, 0b10, 0), (0xFFFF_FFFC, 0b00, 1)],
)
def test_a_blackwell_gpu_has_its_mode_in_two_bits_and_its_decoupler_in_the_third(
    part: Part, word: int, bits: int, decoupled: int
) -> None:
    assert part.mode_registers == (0x590,)
    assert part.mode_bits({0x590: word}) == ModeBits(bits)
    assert part.decoupler is not None
    assert (part.decoupler.offset, part.decoupler.of(word)) == (0x590, decoupled)


@pytest.mark.parametrize("part", [BLACKWELL_GB1XX, BLACKWELL_GB20X])
def test_a_blackwell_gpu_has_no_ppcie(part: Part) -> None:
    assert list(part.knobs) == [CcMode.OFF, CcMode.ON, CcMode.DEVTOOLS]
    assert part.staged_knobs == (Knob.DEVTOOLS, Knob.CC)
    with pytest.raises(UnsupportedDevice, match="has no mode ppcie: it can do off, on, devtools"):
        part.targets(ADDRESS, CcMode.PPCIE)


@pytest.mark.parametrize(("word", "mode"), [(0, CcMode.OFF), (1, CcMode.PPCIE), (0xFFFF_FFFE, CcMode.OFF)])
def test_a_switch_has_ppcie_in_bit_0_and_nothing_else(word: int, mode: CcMode) -> None:
    assert NVSWITCH_GEN3.mode_registers == (0x28C50,)
    assert NVSWITCH_GEN3.mode_bits({0x28C50: word}).mode is mode


def test_a_switch_shows_off_in_every_mode_of_its_node_but_ppcie() -> None:
    assert [NVSWITCH_GEN3.shown_mode(mode) for mode in CcMode] == [CcMode.OFF, CcMode.OFF, CcMode.OFF, CcMode.PPCIE]
    assert [HOPPER_GPU.shown_mode(mode) for mode in CcMode] == list(CcMode)


def test_the_staged_mode_of_a_switch_is_in_its_ppcie_knob_alone() -> None:
    assert NVSWITCH_GEN3.staged_knobs == (Knob.PPCIE,)
    assert HOPPER_GPU.staged_knobs == (Knob.DEVTOOLS, Knob.CC, Knob.PPCIE)


@pytest.mark.parametrize("part", [HOPPER_GPU, NVSWITCH_GEN3])
def test_both_parts_have_all_modes(part: Part) -> None:
    assert all(part.targets(ADDRESS, mode) for mode in CcMode)


def test_a_mode_that_a_part_lacks_is_refused_and_the_message_names_the_others() -> None:
    part = Part(
        name="a test part",
        recovery=BitField(0x0, low=0),
        boot_complete=0x4,
        boot_timeout_s=1.0,
        cc_mode=BitField(0x8, low=0, width=2),
        ppcie=None,
        knobs={CcMode.OFF: (), CcMode.ON: ()},
    )
    with pytest.raises(UnsupportedDevice, match=r"^0000:3b:00\.0: a test part has no mode ppcie: it can do off, on$"):
        part.targets(ADDRESS, CcMode.PPCIE)
