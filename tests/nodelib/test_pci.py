"""PCI addresses and functions as values."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodelib.pci import PciAddress, is_vfio_driver, same_driver
from tests.nodelib.samples import PROPERTY, at, bridge, gpu, nvswitch

ADDRESSES = st.builds(
    PciAddress,
    domain=st.integers(0, 0xFFFFFFFF),
    bus=st.integers(0, 0xFF),
    device=st.integers(0, 0x1F),
    function=st.integers(0, 7),
)


@PROPERTY
@given(ADDRESSES)
def test_an_address_is_read_back_from_its_text(address: PciAddress) -> None:
    assert PciAddress.parse(str(address)) == address


@PROPERTY
@given(ADDRESSES)
def test_nvidia_smi_spells_the_same_address_with_eight_digits_in_upper_case(address: PciAddress) -> None:
    spelling = f"{address.domain:08X}:{address.bus:02X}:{address.device:02X}.{address.function:X}"
    assert PciAddress.parse(spelling) == address


def test_an_address_is_printed_as_sysfs_names_its_folder() -> None:
    assert str(PciAddress.parse("00000000:3B:00.0")) == "0000:3b:00.0"
    assert str(PciAddress.parse("10000:e1:00.0")) == "10000:e1:00.0"  # a domain beyond 16 bits, as VMD makes them


@PROPERTY
@given(ADDRESSES, st.data())
def test_a_part_of_an_address_never_stands_for_a_device(address: PciAddress, data: st.DataObject) -> None:
    """DESIGN section 4: `--device` is never matched by a part."""
    text = f"{address.domain & 0xFFFF:04x}{str(address)[-8:]}"
    begin = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(begin, len(text)))
    if (begin, end) != (0, len(text)):
        with pytest.raises(ValueError, match="is not a PCI address"):
            PciAddress.parse(text[begin:end])


@PROPERTY
@given(st.text(alphabet="0123456789abcdefABCDEF:.\u0663 \n-x", max_size=16))
def test_whatever_is_taken_for_an_address_is_one_in_full(text: str) -> None:
    try:
        address = PciAddress.parse(text)
    except ValueError:
        return
    assert re.fullmatch(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]", text.lower())
    assert str(address).rjust(16, "0") == text.lower().rjust(16, "0")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3b:00.0",
        "0000:3b:00",
        "0000:3b:00.8",
        "0000:3b:20.0",
        "000:3b:00.0",
        "000000000:3b:00.0",
        "0000:3b:00.0\n",
        " 0000:3b:00.0",
        "0000:3b:00.0 ",
        "\u0660\u0660\u0660\u0660:3b:00.0",
        "0000-3b-00.0",
        "gpu0",
    ],
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape("as in 0000:3b:00.0")):
        PciAddress.parse(text)


def test_addresses_sort_as_the_bus_does_and_not_as_text() -> None:
    texts = ["10000:01:00.0", "0000:9b:00.0", "0000:0a:1f.1", "0000:0a:02.0"]
    assert [str(a) for a in sorted(map(PciAddress.parse, texts))] == texts[::-1]


def test_the_functions_of_one_card_share_their_slot() -> None:
    assert at("01.1").slot == at("01").slot != at("02").slot


def test_bridges_are_told_by_their_class_and_an_nvswitch_is_none() -> None:
    assert bridge("00", 1).is_bridge
    assert bridge("00", 1, pci_class=0x060000).is_bridge  # host bridge
    assert bridge("00", 1, pci_class=0x060401).is_bridge  # the programming interface does not matter
    assert not nvswitch("01", 1).is_bridge


@pytest.mark.parametrize(
    ("driver", "is_vfio"),
    [
        ("vfio-pci", True),
        ("vfio_pci", True),
        ("nvgrace_gpu_vfio_pci", True),
        ("mlx5-vfio-pci", True),
        ("nvidia", False),
        ("vfio-pci-stub", False),
        ("", False),
    ],
)
def test_a_vfio_driver_is_told_by_the_end_of_its_name(driver: str, is_vfio: bool) -> None:
    """Field problem 32: variant drivers are VFIO drivers too."""
    assert is_vfio_driver(driver) is is_vfio


def test_the_folder_vfio_dev_tells_a_vfio_driver_of_any_name() -> None:
    """facts/kubelet-cdi-kata-contract.md, "VFIO device nodes": since Linux 6.1 the folder is the sign."""
    assert gpu("01", 1, driver="vendor-passthrough", has_vfio_dev=True).is_on_vfio_driver
    assert gpu("01", 1, driver="vfio-pci", has_vfio_dev=False).is_on_vfio_driver  # before Linux 6.1
    assert not gpu("01", 1, driver="nvidia").is_on_vfio_driver
    assert not gpu("01", 1, driver=None).is_on_vfio_driver


def test_driver_names_compare_without_regard_to_dash_and_underscore() -> None:
    assert same_driver("vfio-pci", "vfio_pci")
    assert not same_driver("vfio-pci", "nvidia")
    assert same_driver(None, None)
    assert not same_driver("vfio-pci", None)
    assert not same_driver(None, "vfio-pci")


@pytest.mark.parametrize(("state", "is_asleep"), [("D3hot", True), ("D3cold", True), ("D0", False), (None, False)])
def test_a_device_sleeps_in_either_kind_of_d3(state: str | None, is_asleep: bool) -> None:
    assert gpu("01", 1, power_state=state).is_asleep is is_asleep
