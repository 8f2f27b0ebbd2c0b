"""Modes as text and as bits."""

import pytest

from cc_manager.mode import CcMode, ModeBits, parse_mode
from nodelib.errors import InvalidValue


@pytest.mark.parametrize(
    ("text", "mode"),
    [("off", CcMode.OFF), ("on", CcMode.ON), ("devtools", CcMode.DEVTOOLS), ("ppcie", CcMode.PPCIE)],
)
def test_a_mode_is_spelt_as_the_label_has_it(text: str, mode: CcMode) -> None:
    assert parse_mode(text) is mode


@pytest.mark.parametrize("text", ["", "ON", "On", "on ", " on", "on\n", "yes", "true", "1", "failed", "x" * 63])
def test_anything_else_is_refused_and_the_message_names_what_is_allowed(text: str) -> None:
    with pytest.raises(InvalidValue, match="write off, on, devtools or ppcie") as caught:
        parse_mode(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("bits", "mode"),
    [
        (ModeBits(0b00), CcMode.OFF),
        (ModeBits(0b01), CcMode.ON),
        (ModeBits(0b11), CcMode.DEVTOOLS),
        (ModeBits(0b00, ppcie=True), CcMode.PPCIE),
    ],
)
def test_mode_bits_that_mean_a_mode(bits: ModeBits, mode: CcMode) -> None:
    assert bits.mode is mode
    assert str(bits) == mode.value
    assert ModeBits.of(mode) == bits


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        (ModeBits(0b10), "invalid (CC mode bits 0b10, PPCIe off)"),
        (ModeBits(0b01, ppcie=True), "invalid (CC mode bits 0b01, PPCIe on)"),
        (ModeBits(0b10, ppcie=True), "invalid (CC mode bits 0b10, PPCIe on)"),
        (ModeBits(0b11, ppcie=True), "invalid (CC mode bits 0b11, PPCIe on)"),
    ],
)
def test_mode_bits_that_mean_none_are_invalid_and_say_what_they_are(bits: ModeBits, text: str) -> None:
    assert bits.mode is None
    assert str(bits) == text
