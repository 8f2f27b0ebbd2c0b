"""Readings that are no data."""

import pytest

from cc_manager.errors import BusError
from cc_manager.gpu.registers import CheckedRegisters
from nodelib.errors import DeviceGone
from tests.cc_manager.scripted import ADDRESS, Read, Write, played


def test_a_register_reads_as_it_is() -> None:
    with played([Read(0x200BC, 0xFF), Write(0x12004C, 4)]) as script:
        registers = CheckedRegisters(ADDRESS, script)
        assert registers.read32(0x200BC) == 0xFF
        registers.write32(0x12004C, 4)


@pytest.mark.parametrize("word", [0xBADF_0000, 0xBADF_5040, 0xBADF_FFFF])
def test_an_error_marker_of_the_internal_bus_is_an_error_that_names_the_register(word: int) -> None:
    with played([Read(0x1182CC, word)]) as script:
        with pytest.raises(BusError) as caught:
            CheckedRegisters(ADDRESS, script).read32(0x1182CC)
        assert str(caught.value).startswith(f"0000:3b:00.0: register 0x1182cc reads {word:#010x}, ")


@pytest.mark.parametrize("word", [0xBADE_FFFF, 0xBAE0_0000, 0x0000_BADF, 0xFFFF_FFFE])
def test_words_that_only_look_like_a_marker_are_data(word: int) -> None:
    with played([Read(0x590, word)]) as script:
        assert CheckedRegisters(ADDRESS, script).read32(0x590) == word


def test_all_ones_means_that_the_device_is_gone() -> None:
    with played([Read(0x0, 0xFFFF_FFFF), Read(0x0, 0xFFFF_FFFF)]) as script:
        registers = CheckedRegisters(ADDRESS, script)
        with pytest.raises(DeviceGone, match=r"^0000:3b:00\.0: register 0x0 reads 0xffffffff"):
            registers.read32(0x0)
        with pytest.raises(DeviceGone):
            registers.read_marker32(0x0)


def test_the_words_of_a_message_may_be_anything() -> None:
    with played([Read(0x8F2AD4, 0xBADF_0001), Read(0x8F2AD4, 0xFFFF_FFFF)]) as script:
        registers = CheckedRegisters(ADDRESS, script)
        assert [registers.read_data32(0x8F2AD4), registers.read_data32(0x8F2AD4)] == [0xBADF_0001, 0xFFFF_FFFF]
