"""How the text, links and folders of sysfs become values."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodelib import attributes
from tests.nodelib.samples import PROPERTY, at, open_descriptors

NO_NUMBERS = ["", " ", "x", "0x", "1 2", "-", "1_0", "1.5", "\u0663", "²", "\ufffd", "9" * 5000]
"""The last is a page of garbage; Python reads `1_0` as 10 and the Arabic digit as 3, the kernel writes neither."""


def test_an_attribute_is_its_first_page_without_the_white_space(tmp_path: Path) -> None:
    (tmp_path / "numa_node").write_text(" -1 \n")
    (tmp_path / "long").write_text("a" * 5000)
    assert attributes.read_text(str(tmp_path / "numa_node")) == "-1"
    assert len(attributes.read_text(str(tmp_path / "long"))) == 4096


def test_reading_leaves_no_descriptor_behind(tmp_path: Path) -> None:
    (tmp_path / "vendor").write_text("0x10de\n")
    (tmp_path / "class").mkdir()
    before = open_descriptors()
    attributes.read_text(str(tmp_path / "vendor"))
    with pytest.raises(IsADirectoryError):
        attributes.read_text(str(tmp_path / "class"))
    assert open_descriptors() == before


def test_bytes_that_are_no_ascii_do_not_end_the_read(tmp_path: Path) -> None:
    (tmp_path / "vendor").write_bytes(b"\xff\xfe\x00")
    assert attributes.read_text(str(tmp_path / "vendor")) == "\ufffd\ufffd\0"


@pytest.mark.parametrize("target", ["nothing-there", "folder", "/proc/self/mem"])
def test_what_cannot_be_read_says_so(tmp_path: Path, target: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "vendor").symlink_to(target)
    with pytest.raises(OSError, match=r"No such file|Is a directory|Input/output error"):
        attributes.read_text(str(tmp_path / "vendor"))


@PROPERTY
@given(st.integers(0, 0xFFFFFF))
def test_an_id_is_read_as_sysfs_writes_it(value: int) -> None:
    assert attributes.parse_hex(f"0x{value:04x}") == value


@pytest.mark.parametrize("text", [*NO_NUMBERS, "0x1000000", "-0x1", "10de:2335", "0x10de\0", "0x10_de"])
def test_a_garbled_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no hexadecimal id"):
        attributes.parse_hex(text)


@pytest.mark.parametrize(("text", "node"), [("-1", None), ("0", 0), ("1", 1), ("-2", None)])
def test_minus_one_is_no_numa_node(text: str, node: int | None) -> None:
    """Field problem 36."""
    assert attributes.parse_numa_node(text) == node


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_a_garbled_number_is_refused(text: str) -> None:
    for parse in (attributes.parse_numa_node, attributes.parse_count, attributes.parse_flag):
        with pytest.raises(ValueError):  # noqa: PT011 - as above
            parse(text)
    assert attributes.number_or_none(text) is None


def test_a_negative_count_is_refused() -> None:
    assert attributes.parse_count("2") == 2
    with pytest.raises(ValueError, match="'-1' is no number"):
        attributes.parse_count("-1")


def test_a_page_of_garbage_is_not_repeated_in_full() -> None:
    for parse in (attributes.parse_hex, attributes.parse_numa_node, attributes.parse_count, attributes.parse_flag):
        with pytest.raises(ValueError, match="'xxx") as caught:
            parse("x" * 4096)
        assert len(str(caught.value)) < 80


def test_a_flag_is_0_or_1() -> None:
    assert attributes.parse_flag("1") is True
    assert attributes.parse_flag("0") is False
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        attributes.parse_flag("2")


@pytest.mark.parametrize(("text", "override"), [("", None), ("(null)", None), ("vfio-pci", "vfio-pci")])
def test_the_kernel_writes_null_for_no_override(text: str, override: str | None) -> None:
    assert attributes.parse_override(text) == override


def test_the_numbers_of_a_folder_are_its_ascii_numbers(tmp_path: Path) -> None:
    for name in ("0", "65", "vfio", "\u0663", "-1", "²"):
        (tmp_path / name).touch()
    assert attributes.numbers_in(tmp_path) == {0, 65}
    assert attributes.numbers_in(tmp_path / "absent") == frozenset()
    assert attributes.numbers_in(tmp_path / "65") == frozenset()  # a file


def test_no_link_is_sysfs_way_to_say_none(tmp_path: Path) -> None:
    (tmp_path / "driver").symlink_to("../../../bus/pci/drivers/vfio-pci")
    assert attributes.link_name(str(tmp_path / "driver")) == "vfio-pci"
    assert attributes.link_name(str(tmp_path / "iommu_group")) is None


def test_a_link_to_garbage_is_a_fault_and_no_value(tmp_path: Path) -> None:
    (tmp_path / "iommu_group").symlink_to("somewhere/else")
    (tmp_path / "physfn").symlink_to("3b:00.0")
    faults: list[str] = []
    assert attributes.group_number(str(tmp_path / "iommu_group"), faults) is None
    assert attributes.linked_address(str(tmp_path / "physfn"), faults) is None
    assert faults == [
        "iommu_group links to 'else', which is no group number",
        "physfn links to '3b:00.0', which is no PCI address",
    ]


def test_links_to_groups_and_functions_are_read(tmp_path: Path) -> None:
    (tmp_path / "iommu_group").symlink_to("../../kernel/iommu_groups/65")
    (tmp_path / "physfn").symlink_to("../0000:3b:00.0")
    faults: list[str] = []
    assert attributes.group_number(str(tmp_path / "iommu_group"), faults) == 65
    assert attributes.linked_address(str(tmp_path / "physfn"), faults) == at("3b")
    assert attributes.group_number(str(tmp_path / "absent"), faults) is None
    assert attributes.linked_address(str(tmp_path / "absent"), faults) is None
    assert faults == []


def test_the_folder_vfio_dev_alone_is_no_cdev(tmp_path: Path) -> None:
    """facts/kubelet-cdi-kata-contract.md: since Linux 6.1 every device on a VFIO driver has the folder."""
    assert attributes.vfio_cdev(str(tmp_path)) == (None, False)
    (tmp_path / "vfio-dev/vfio3").mkdir(parents=True)
    assert attributes.vfio_cdev(str(tmp_path)) == (None, True)
    (tmp_path / "vfio-dev/vfio3/dev").write_text("511:3\n")
    assert attributes.vfio_cdev(str(tmp_path)) == ("vfio3", True)


@pytest.mark.parametrize(
    ("place", "root"),
    [
        ("../../../devices/pci0000:15/0000:15:01.0/0000:16:00.0/0000:1b:00.0", "pci0000:15"),
        ("../../../devices/pci10000:e0/10000:e0:01.0", "pci10000:e0"),
        ("../../../devices/LNXSYSTM:00/LNXSYBUS:00/ACPI0004:00/VMBUS:00/pciabcd:00/abcd:00:00.0", "pciabcd:00"),
        ("../../../devices/pci0000:1/0000:1b:00.0", None),
        ("/sys/elsewhere/0000:1b:00.0", None),
        ("", None),
    ],
)
def test_the_root_bus_is_in_the_place_that_a_device_folder_links_to(
    tmp_path: Path, place: str, root: str | None
) -> None:
    """The third is a device that Hyper-V passes through."""
    folder = tmp_path / "0000:1b:00.0"
    if place:
        folder.symlink_to(place)
    else:
        folder.mkdir()
    assert attributes.pcie_root(str(folder)) == root
