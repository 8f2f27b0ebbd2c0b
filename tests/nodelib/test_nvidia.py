"""Which NVIDIA device a PCI function is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodelib.nvidia import (
    CHIP_RANGES,
    Architecture,
    Kind,
    chip_of,
    gpus,
    is_assignable_kind,
    kind_of,
    model_of,
    nvlink_fabric,
    nvswitches,
)
from nodelib.pci import PciDevice
from tests.nodelib.samples import PROPERTY, at, audio, bridge, gpu, nic, nvswitch

# facts/fsp-and-cc-mode.md, section 1.
FACTS = {
    "GH100": (0x22F0, 0x237F, Architecture.HOPPER),
    "GB100": (0x2900, 0x297F, Architecture.BLACKWELL),
    "GB102": (0x2980, 0x29FF, Architecture.BLACKWELL),
    "GB110": (0x3180, 0x31FF, Architecture.BLACKWELL),
    "GB112": (0x3200, 0x327F, Architecture.BLACKWELL),
    "GB202": (0x2B80, 0x2BFF, Architecture.BLACKWELL),
    "GB203": (0x2C00, 0x2C7F, Architecture.BLACKWELL),
    "GB205": (0x2F00, 0x2F7F, Architecture.BLACKWELL),
    "GB206": (0x2D00, 0x2D7F, Architecture.BLACKWELL),
    "GB207": (0x2D80, 0x2DFF, Architecture.BLACKWELL),
}


def test_the_chip_table_is_that_of_the_facts() -> None:
    table = {known.chip.name: (known.first, known.last, known.chip.architecture) for known in CHIP_RANGES}
    assert table == FACTS
    assert len(CHIP_RANGES) == len(FACTS)


@pytest.mark.parametrize("name", FACTS)
def test_both_ends_of_a_range_belong_to_its_chip(name: str) -> None:
    first, last, architecture = FACTS[name]
    for device in (first, last):
        chip = chip_of(gpu("01", 1, device=device, name=None))
        assert chip is not None
        assert (chip.name, chip.architecture) == (name, architecture)


@PROPERTY
@given(st.integers(0, 0xFFFF))
def test_an_id_outside_every_range_is_no_known_chip_without_a_name(device: int) -> None:
    inside = any(first <= device <= last for first, last, _ in FACTS.values())
    assert (chip_of(gpu("01", 1, device=device, name=None)) is not None) is inside


def test_the_database_name_is_the_second_source() -> None:
    chip = chip_of(gpu("01", 1, device=0x4000, name="GB110 [B300 SXM6 AC]"))
    assert chip is not None
    assert chip.name == "GB110"


@pytest.mark.parametrize(
    "name",
    [
        "GB120",  # a chip's name, but not in the table
        "GB1100 [Longer]",
        "gb110 [B300]",
        "B300 GB110",
        "",
    ],
)
def test_a_name_counts_only_where_its_first_word_is_a_chip_of_the_table(name: str) -> None:
    assert chip_of(gpu("01", 1, device=0x4000, name=name)) is None


def test_the_id_goes_before_the_name() -> None:
    chip = chip_of(gpu("01", 1, device=0x2901, name="GH100 [Mistaken]"))
    assert chip is not None
    assert chip.name == "GB100"


@pytest.mark.parametrize(
    "device",
    [
        nvswitch("01", 1, device=0x22F0),
        audio("01", 1, device=0x2330, name="GH100 High Definition Audio Controller"),
        gpu("01", 1, physical_function=at("00")),
        gpu("01", 1, vendor=0x1002),
    ],
)
def test_only_gpus_have_a_chip(device: PciDevice) -> None:
    """facts/fsp-and-cc-mode.md: audio functions and the switch begin with a chip's name too."""
    assert chip_of(device) is None


@pytest.mark.parametrize(
    ("device", "kind"),
    [
        (gpu("01", 1), Kind.GPU),
        (gpu("01", 1, pci_class=0x030000), Kind.GPU),
        (gpu("01", 1, pci_class=0x0302FF), Kind.GPU),
        (nvswitch("01", 1), Kind.NVSWITCH),
        (audio("01", 1), Kind.COMPANION),
        (audio("01", 1, pci_class=0x0C0330), Kind.COMPANION),  # USB
        (audio("01", 1, pci_class=0x0C8000), Kind.COMPANION),  # UCSI
        (audio("01", 1, pci_class=0x030100), Kind.COMPANION),  # XGA is no class of our GPUs
        (gpu("01", 1, pci_class=0x060400), Kind.BRIDGE),
        (bridge("01", 1), Kind.BRIDGE),
        (nic("01", 1), Kind.FOREIGN),
        (gpu("01", 1, vendor=0x1002), Kind.FOREIGN),
        (nvswitch("01", 1, vendor=0x8086), Kind.FOREIGN),
    ],
)
def test_kinds_are_told_by_vendor_and_class(device: PciDevice, kind: Kind) -> None:
    assert kind_of(device) is kind


@PROPERTY
@given(st.integers(0, 0xFFFF), st.sampled_from([0x030000, 0x030200, 0x068000]))
def test_a_virtual_function_is_never_a_gpu_nor_given_away(device: int, pci_class: int) -> None:
    """Field problem 40."""
    function = gpu("01.1", 1, device=device, pci_class=pci_class, physical_function=at("01"))
    assert kind_of(function) is Kind.VIRTUAL_FUNCTION
    assert not is_assignable_kind(function)


@PROPERTY
@given(st.integers(0, 0xFFFF))
def test_no_list_of_models_is_consulted_to_find_a_gpu(device: int) -> None:
    """Field problem 17: a new GPU must not be missed."""
    assert kind_of(gpu("01", 1, device=device, name=None)) is Kind.GPU


def test_gpus_and_switches_are_picked_in_order_without_their_companions() -> None:
    first, sound, switch, second, card = gpu("01", 1), audio("01.1", 1), nvswitch("02", 2), gpu("03", 3), nic("04", 4)
    devices = (first, sound, switch, second, card)
    assert gpus(devices) == (first, second)
    assert nvswitches(devices) == (switch,)
    assert [device for device in devices if is_assignable_kind(device)] == [first, switch, second]


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("GH100 [H200 SXM 141GB]", "H200 SXM 141GB"),
        ("GB110", "GB110"),
        ("GB110 []", "GB110 []"),
        (None, "unknown 2335"),
    ],
)
def test_people_are_told_the_model_in_a_word_or_two(name: str | None, model: str) -> None:
    assert model_of(gpu("01", 1, name=name)) == model


@pytest.mark.parametrize(
    ("name", "is_on_a_board"),
    [
        ("GH100 [H100 SXM5 80GB]", True),
        ("GH100 [H200 SXM 141GB]", True),
        ("GA100 [A100-SXM-64GB]", True),
        ("GB100 [B200]", True),
        ("GB100 [HGX GB200]", True),
        ("GB110 [B300 SXM6 AC]", True),
        ("GB110 [GB300-252]", True),
        ("GH100 [H100 PCIe]", False),
        ("GH100 [H200 NVL]", False),
        ("AD102GL [L40S]", False),
        (None, False),
    ],
)
def test_a_board_with_nvlink_shows_by_the_models_name(name: str | None, is_on_a_board: bool) -> None:
    device = gpu("3b", 65, device=0x1234, name=name)
    assert nvlink_fabric(device, has_switches=False) == (0x1234 if is_on_a_board else None)


def test_where_the_node_has_switches_gpus_of_one_model_are_on_one_fabric() -> None:
    assert nvlink_fabric(gpu("3b", 65, name="GH100 [H800]"), has_switches=True) == 0x2335
    assert nvlink_fabric(nvswitch("07", 70), has_switches=True) is None
    assert nvlink_fabric(audio("3b.1", 65), has_switches=True) is None
