"""What a read of configuration space says. Field problems 2 and 20."""

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodelib.config_space import EXTENDED_BYTES, ConfigAnswer, find_dvsec, judge_config
from nodelib.pci import ConfigState
from tests.nodelib.samples import PROPERTY

HEADER = bytes.fromhex("de10352306011000") + bytes(56)


def test_a_device_that_answers_gives_its_header_and_its_command_register() -> None:
    answer = judge_config(HEADER)
    assert answer == ConfigAnswer(ConfigState.ANSWERS, HEADER)
    assert answer.command == 0x0106


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (b"\xff" * 64, ConfigState.GONE),
        (b"\xff\xff" + bytes(62), ConfigState.GONE),  # 0xffff is no vendor
        (b"\xff\x10" + bytes(62), ConfigState.ANSWERS),
        (b"", ConfigState.UNREADABLE),
        (HEADER[:5], ConfigState.UNREADABLE),
        (OSError(errno.EACCES, ""), ConfigState.UNREADABLE),
        (None, ConfigState.HUNG),
    ],
)
def test_all_ones_means_gone_and_no_answer_means_hung(answer: bytes | OSError | None, state: ConfigState) -> None:
    assert judge_config(answer).state is state


@PROPERTY
@given(st.binary(max_size=64) | st.none())
def test_there_is_a_command_register_exactly_where_there_was_an_answer(answer: bytes | None) -> None:
    judged = judge_config(answer)
    assert (judged.command is not None) is (judged.state is ConfigState.ANSWERS)


# --- extended capabilities

DVSEC = struct.pack("<III", 0x0001_0023, 0x0180_10DE, 0x0010_0000)
"""The last of a list: NVIDIA's, of id 0."""


def extended(**at: bytes) -> bytes:
    """A whole configuration space with these capabilities, by offset (`x100=`)."""
    space = bytearray(HEADER.ljust(EXTENDED_BYTES, b"\0"))
    for offset, capability in at.items():
        place = int(offset[1:], 16)
        space[place : place + len(capability)] = capability
    return bytes(space)


def test_a_vendors_capability_is_found_along_the_list() -> None:
    aer = struct.pack("<III", 0x2402_0001, 0, 0)
    other_id = struct.pack("<III", 0x3001_0023, 0x0180_10DE, 0x0000_0001)
    space = extended(x100=aer, x240=other_id, x300=DVSEC)
    assert find_dvsec(space, 0x10DE, 0) == 0x300
    assert find_dvsec(space, 0x10DE, 1) == 0x240
    assert find_dvsec(space, 0x8086, 0) is None


def test_where_only_the_header_may_be_read_there_is_none() -> None:
    assert find_dvsec(extended(x100=DVSEC)[:64], 0x10DE, 0) is None
    assert find_dvsec(extended(x100=DVSEC)[:0x108], 0x10DE, 0) is None


def test_a_list_that_comes_back_to_itself_ends() -> None:
    assert find_dvsec(extended(x100=struct.pack("<III", 0x1001_0001, 0, 0)), 0x10DE, 0) is None


@PROPERTY
@given(st.binary(max_size=64))
def test_no_garbage_hangs_or_breaks_the_search(garbage: bytes) -> None:
    found = find_dvsec(extended(x100=garbage * 20), 0x10DE, 0)
    assert found is None or found >= 0x100
