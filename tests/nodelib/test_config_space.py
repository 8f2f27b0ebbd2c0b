"""What a read of configuration space says of its device. Field problems 2 and 44."""

import errno

import pytest

from nodelib.config_space import ConfigAnswer, judge_config
from nodelib.pci import ConfigState

HEADER = bytes.fromhex("de10352306011000") + bytes(56)


def test_a_device_that_answers_gives_its_header() -> None:
    answer = judge_config(HEADER)
    assert answer == ConfigAnswer(ConfigState.ANSWERS, HEADER)
    assert answer.command == 0x0106


@pytest.mark.parametrize(
    ("content", "state"),
    [
        (b"\xff" * 64, ConfigState.GONE),
        (b"\xff\xff" + bytes(62), ConfigState.GONE),  # 0xffff is no vendor
        (b"\xff\x10" + bytes(62), ConfigState.ANSWERS),
        (b"", ConfigState.UNREADABLE),
        (b"\xde", ConfigState.UNREADABLE),
        (FileNotFoundError(errno.ENOENT, ""), ConfigState.UNREADABLE),
        (None, ConfigState.HUNG),
    ],
)
def test_all_ones_mean_gone_silence_means_hung_and_too_little_unreadable(
    content: bytes | OSError | None, state: ConfigState
) -> None:
    answer = judge_config(content)
    assert answer.state is state
    assert (answer.command is None) is (state is not ConfigState.ANSWERS)
