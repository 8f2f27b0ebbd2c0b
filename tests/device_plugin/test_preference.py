"""Which of the free devices are best together."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_plugin.allocate import InvalidRequest
from device_plugin.inventory import Devices
from device_plugin.preference import prefer
from nodelib.vfio import Naming, assignable_devices
from tests.nodelib.samples import PROPERTY, gpu, look, nvswitch

PCIE = {"device": 0x26B9, "name": "AD102GL [L40S]"}


def devices(*functions: object) -> Devices:
    return assignable_devices(look(*functions), Naming())  # type: ignore[arg-type] # samples of one kind


NODES = devices(
    gpu("10", 1, numa_node=0, **PCIE),
    gpu("20", 2, numa_node=0, **PCIE),
    gpu("30", 3, numa_node=0, enable=1, **PCIE),
    gpu("90", 9, numa_node=1, **PCIE),
    gpu("a0", 10, numa_node=1, **PCIE),
    gpu("b0", 11, numa_node=1, **PCIE),
    gpu("f0", 20, **PCIE),
)
ALL = [device.id for device in NODES]


def preferred(available: Sequence[str], size: int, *must_include: str, of: Devices = NODES) -> list[str]:
    return sorted(prefer(available, must_include, size, of), key=int)


def test_devices_of_one_numa_node_are_preferred() -> None:
    assert preferred(["1", "9", "10"], 2) == ["9", "10"]


def test_idle_devices_are_preferred() -> None:
    assert preferred(["1", "2", "3"], 2) == ["1", "2"]
    assert preferred(["2", "3", "9", "10"], 2) == ["9", "10"]


def test_what_must_be_included_decides_the_numa_node() -> None:
    assert preferred(ALL, 2, "11") == ["9", "11"]
    assert preferred(ALL, 2, "3") == ["1", "3"]


def test_a_small_request_leaves_the_larger_node_whole() -> None:
    assert preferred(["1", "9", "10"], 1) == ["1"]


def test_a_large_request_takes_whole_nodes_first() -> None:
    assert preferred(["1", "2", "9", "10", "11"], 4) == ["1", "9", "10", "11"]


def test_a_device_without_a_numa_hint_counts_for_no_node() -> None:
    assert preferred(["1", "20"], 1) == ["1"]
    assert preferred(["20", "1", "2"], 2) == ["1", "2"]


def test_equal_devices_are_taken_by_number_not_by_spelling() -> None:
    assert preferred(["11", "10", "9"], 2) == ["9", "10"]


def test_all_of_them_is_all_of_them() -> None:
    assert preferred(ALL, len(ALL)) == ALL


def test_an_unknown_id_is_preferred_last() -> None:
    assert prefer(["999", "1"], [], 1, NODES) == ("1",)
    assert set(prefer(["999", "1"], [], 2, NODES)) == {"1", "999"}


@pytest.mark.parametrize(
    ("available", "must_include", "size", "reason"),
    [
        (["1"], [], 2, "cannot prefer 2 of 1 devices"),
        (["1", "2"], ["1", "2"], 1, "cannot prefer 1 of 2 devices with 2 to be included"),
        (["1"], ["2"], 1, "device '2' must be included and is not available"),
        (["1"], [], -1, "cannot prefer -1"),
        ([], [], 1, "cannot prefer 1 of 0"),
    ],
)
def test_a_contradiction_is_refused(available: list[str], must_include: list[str], size: int, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        prefer(available, must_include, size, NODES)


@PROPERTY
@given(data=st.data())
def test_any_answer_is_of_the_right_size_from_what_is_available_and_the_same_each_time(data: st.DataObject) -> None:
    available = data.draw(st.lists(st.sampled_from([*ALL, "999", "x"]), unique=True, min_size=1))
    must_include = data.draw(st.lists(st.sampled_from(available), unique=True))
    size = data.draw(st.integers(len(must_include), len(available)))
    answer = prefer(available, must_include, size, NODES)
    assert len(answer) == len(set(answer)) == size
    assert set(must_include) <= set(answer) <= set(available)
    assert set(prefer(available[::-1], must_include[::-1], size, NODES)) == set(answer)


# --- one PCIe root

ROOTS = devices(
    gpu("10", 1, numa_node=0, pcie_root="pci0000:0a", **PCIE),
    gpu("20", 2, numa_node=0, pcie_root="pci0000:1a", **PCIE),
    gpu("21", 3, numa_node=0, pcie_root="pci0000:1a", enable=1, **PCIE),
    gpu("30", 4, numa_node=0, pcie_root="pci0000:2a", **PCIE),
    gpu("90", 9, numa_node=1, pcie_root="pci0000:8a", **PCIE),
)


def test_within_a_numa_node_devices_below_one_pcie_root_are_preferred() -> None:
    assert preferred(["1", "2", "3", "4"], 2, of=ROOTS) == ["2", "3"]


def test_what_must_be_included_decides_the_pcie_root() -> None:
    assert preferred(["1", "2", "3", "4"], 2, "3", of=ROOTS) == ["2", "3"]


def test_one_device_does_not_break_up_a_pair() -> None:
    assert preferred(["1", "2", "3", "4"], 1, of=ROOTS) == ["1"]


def test_a_shared_root_is_no_reason_to_leave_the_numa_node() -> None:
    assert preferred(["1", "4", "9"], 2, of=ROOTS) == ["1", "4"]


# --- one NVLink fabric

MIXED = devices(
    gpu("10", 1, numa_node=0),
    gpu("20", 2, numa_node=0),
    gpu("30", 3, numa_node=0, **PCIE),
    gpu("40", 4, numa_node=0, **PCIE),
    gpu("90", 9, numa_node=1),
    gpu("a0", 10, numa_node=1),
)
"""Four GPUs of an HGX board, two on each NUMA node, and two cards."""


def test_a_set_is_taken_from_one_nvlink_fabric_though_it_spans_numa_nodes() -> None:
    assert preferred(["1", "2", "3", "4", "9", "10"], 4, of=MIXED) == ["1", "2", "9", "10"]


def test_on_the_fabric_one_numa_node_is_preferred() -> None:
    assert preferred(["2", "3", "4", "9", "10"], 2, of=MIXED) == ["9", "10"]


def test_a_single_device_leaves_the_fabric_whole() -> None:
    assert preferred(["1", "2", "3", "9"], 1, of=MIXED) == ["3"]


def test_what_must_be_included_decides_the_fabric() -> None:
    assert preferred(["1", "2", "3", "4", "9", "10"], 2, "1", of=MIXED) == ["1", "2"]
    assert preferred(["1", "2", "3", "4", "9", "10"], 2, "3", of=MIXED) == ["3", "4"]


def test_cards_are_taken_together_where_the_fabric_has_too_few_left() -> None:
    assert preferred(["1", "3", "4"], 2, of=MIXED) == ["3", "4"]


def test_all_gpus_of_a_model_are_on_the_fabric_where_the_node_has_switches() -> None:
    """A model whose name does not tell (H20 and H800 are on HGX boards)."""
    unnamed = {"device": 0x2324, "name": "GH100 [H800]"}
    board = devices(gpu("10", 1, numa_node=0, **unnamed), gpu("90", 9, numa_node=1, **unnamed), nvswitch("07", 70))
    card = devices(gpu("10", 1, numa_node=0, **unnamed), gpu("90", 9, numa_node=1, **unnamed))
    assert [device.fabric for device in board] == [0x2324, 0x2324, None]
    assert [device.fabric for device in card] == [None, None]
