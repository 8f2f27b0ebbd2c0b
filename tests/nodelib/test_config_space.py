"""What a read of configuration space says. Field problems 2 and 20."""

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodelib.config_space import ConfigAnswer, judge_config
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
