"""Packets to the FSP and its answers, against words computed by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cc_manager.errors import FspFault
from cc_manager.gpu.mctp import NVDM_PRC, Answer, parse_answer, request_packets

READ_CC = (0xC000_0000, 0x1310_DE7E, 0x0008_020C)


def test_a_read_of_knob_8_is_these_three_words() -> None:
    assert request_packets(NVDM_PRC, (0x0008_020C,), packet_bytes=1024) == (READ_CC,)


def test_a_write_of_knob_8_is_these_four_words() -> None:
    assert request_packets(NVDM_PRC, (0x0008_020D, 1), packet_bytes=1024) == (
        (0xC000_0000, 0x1310_DE7E, 0x0008_020D, 0x0000_0001),
    )


def test_a_message_that_just_fits_stays_one_packet() -> None:
    (packet,) = request_packets(NVDM_PRC, [7] * 254, packet_bytes=1024)
    assert len(packet) == 256
    assert packet[:3] == (0xC000_0000, 0x1310_DE7E, 7)


def test_one_word_more_makes_a_second_packet_with_only_an_mctp_header() -> None:
    first, second = request_packets(NVDM_PRC, [7] * 254 + [8], packet_bytes=1024)
    assert first[:2] == (0x8000_0000, 0x1310_DE7E)
    assert len(first) == 256
    assert second == (0x5000_0000, 8)


def test_sequence_numbers_count_modulo_4_and_only_the_ends_are_marked() -> None:
    packets = request_packets(NVDM_PRC, range(1, 17), packet_bytes=16)
    assert [packet[0] for packet in packets] == [
        0x8000_0000, 0x1000_0000, 0x2000_0000, 0x3000_0000, 0x0000_0000, 0x5000_0000,
    ]  # fmt: skip
    assert [packet[1:] for packet in packets] == [
        (0x1310_DE7E, 1, 2), (3, 4, 5), (6, 7, 8), (9, 10, 11), (12, 13, 14), (15, 16),
    ]  # fmt: skip


@given(
    st.lists(st.integers(min_value=0, max_value=0xFFFF_FFFF), min_size=1, max_size=600),
    st.sampled_from([16, 1024, 4160]),
)
def test_what_is_cut_into_packets_can_be_put_together_again(payload: list[int], packet_bytes: int) -> None:
    packets = request_packets(NVDM_PRC, payload, packet_bytes)
    assert all(4 * len(packet) <= packet_bytes for packet in packets)
    assert all(4 * len(packet) == packet_bytes for packet in packets[:-1])
    assert [word for packet in packets for word in packet[1:]] == [0x1310_DE7E, *payload]
    assert [packet[0] >> 31 for packet in packets] == [1] + [0] * (len(packets) - 1)
    assert [packet[0] >> 30 & 1 for packet in packets] == [0] * (len(packets) - 1) + [1]
    assert [packet[0] >> 28 & 3 for packet in packets] == [index % 4 for index in range(len(packets))]


def test_an_answer_with_data() -> None:
    words = (0xC000_0000, 0x1510_DE7E, 0x0000_0042, 0x0000_0013, 0, 0xABCD_0001)
    assert parse_answer(words, NVDM_PRC, data_words=1) == Answer(0, (0xABCD_0001,))


def test_an_answer_without_data() -> None:
    words = (0xC000_0000, 0x1510_DE7E, 0x0000_0042, 0x0000_0013, 0)
    assert parse_answer(words, NVDM_PRC, data_words=0) == Answer(0, ())


@pytest.mark.parametrize("data", [(), (1,), (1, 2)])
def test_an_error_is_an_answer_whatever_data_comes_with_it(data: tuple[int, ...]) -> None:
    words = (0xC000_0000, 0x1510_DE7E, 0, 0x0000_0013, 0x1E3, *data)
    assert parse_answer(words, NVDM_PRC, data_words=1) == Answer(0x1E3, data)


@pytest.mark.parametrize(
    ("words", "data_words", "reason"),
    [
        ((), 1, "the FSP's answer has 0 words, fewer than 5"),
        ((0xC000_0000, 0x1510_DE7E, 0, 0x13), 0, "the FSP's answer has 4 words, fewer than 5"),
        (
            (0xC000_0000, 0x1310_DE7E, 0, 0x13, 0),
            0,
            "the FSP sent a message of NVDM type 0x13 and not a response (0x15)",
        ),
        ((0xC000_0000, 0x1510_DE7E, 0, 0x14, 0), 0, "the FSP answered a request of type 0x14, but 0x13 was asked"),
        ((0xC000_0000, 0x1510_DE7E, 0, 0x13, 0), 1, "the FSP's answer carries 0 data words and not 1"),
        ((0xC000_0000, 0x1510_DE7E, 0, 0x13, 0, 1, 2), 1, "the FSP's answer carries 2 data words and not 1"),
        ((0xC000_0000, 0x1510_DE7E, 0, 0x13, 0, 1), 0, "the FSP's answer carries 1 data words and not 0"),
    ],
)
def test_what_is_no_answer_is_refused_and_says_why(words: tuple[int, ...], data_words: int, reason: str) -> None:
    with pytest.raises(FspFault) as caught:
        parse_answer(words, NVDM_PRC, data_words)
    assert str(caught.value) == reason


def test_a_wrong_type_is_noticed_before_a_wrong_request_and_that_before_an_error() -> None:
    with pytest.raises(FspFault, match="NVDM type 0x14"):
        parse_answer((0xC000_0000, 0x1410_DE7E, 0, 0x99, 0x33), NVDM_PRC, data_words=0)
    with pytest.raises(FspFault, match="request of type 0x99"):
        parse_answer((0xC000_0000, 0x1510_DE7E, 0, 0x99, 0x33), NVDM_PRC, data_words=0)
