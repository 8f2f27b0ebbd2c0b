"""Names from the PCI id database."""

import re

from nodelib import pciids
from nodelib.nvidia import chip_of
from tests.nodelib.samples import gpu


def test_the_h200_and_the_switch_of_hgx_h100_have_their_names() -> None:
    assert pciids.device_name(0x2335) == "GH100 [H200 SXM 141GB]"
    assert pciids.device_name(0x22A3) == "GH100 [H100 NVSwitch]"


def test_an_unknown_id_has_no_name() -> None:
    assert pciids.device_name(0xFFFF) is None


def test_every_entry_is_a_device_id_with_a_name() -> None:
    assert len(pciids.names()) > 1900
    for device, name in pciids.names().items():
        assert 0 <= device <= 0xFFFF
        assert name
        assert name == name.strip()


def test_the_table_of_chips_and_the_database_agree_wherever_both_know() -> None:
    """A name that begins with a chip of the table stands for that chip, by id as by name."""
    for device, name in pciids.names().items():
        by_id = chip_of(gpu("01", 1, device=device, name=None))
        by_name = chip_of(gpu("01", 1, device=0xFFFF, name=name))
        if by_id is not None and by_name is not None:
            assert by_id == by_name, f"{device:04x} {name}"


def test_only_device_lines_are_read() -> None:
    """Field problem 35: subsystem lines and other sections give garbage names."""
    text = (
        "# comment\n10de  NVIDIA Corporation\n\t2335  GH100 [H200]\n\t\t10de 18be  a subsystem\n\n\t22a3  Switch  X\n"
    )
    assert pciids.parse(text) == {0x2335: "GH100 [H200]", 0x22A3: "Switch  X"}


def test_the_file_that_ships_holds_one_vendor_and_says_its_licence() -> None:
    text = pciids._DATABASE.read_text(encoding="utf-8")
    assert re.findall(r"^[0-9a-f]{4} ", text, re.MULTILINE) == ["10de "]
    assert "3-clause BSD" in text
