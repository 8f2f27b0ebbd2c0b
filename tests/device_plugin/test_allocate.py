"""Which devices a request means, which nodes it gets, and which devices are preferred."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_plugin.allocate import DeviceUnavailable, InvalidRequest, choose, nodes_of, prefer
from device_plugin.inventory import Devices
from nodelib.vfio import Naming, VfioMode, assignable_devices
from tests.nodelib.samples import PROPERTY, gpu, look


def devices(*functions: object, mode: VfioMode = VfioMode.AUTO) -> Devices:
    return assignable_devices(look(*functions), Naming(vfio_mode=mode))  # type: ignore[arg-type] # samples of one kind


PAIR = devices(gpu("3b", 65), gpu("5e", 66))


def ids(chosen: Sequence[Devices]) -> list[list[str]]:
    return [[device.id for device in container] for container in chosen]


def test_each_container_gets_its_devices_in_the_order_of_the_request() -> None:
    assert ids(choose([["66", "65"]], PAIR)) == [["66", "65"]]
    assert ids(choose([["66"], ["65"]], PAIR)) == [["66"], ["65"]]
    assert choose([], PAIR) == ()


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ([["67"]], "there is no device '67'"),
        ([["0000:3b:00.0"]], "there is no device '0000:3b:00.0'"),
        ([[""]], "there is no device ''"),
        ([["65", "65"]], "device '65' is asked for twice"),
        ([["65"], ["65"]], "device '65' is asked for twice"),
        ([[]], "the request names no device"),
        ([["65"], []], "the request names no device"),
        ([["65", "67"]], "there is no device '67'"),
    ],
)
def test_ids_that_cannot_be_meant_are_refused_by_name(request_: list[list[str]], reason: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        choose(request_, PAIR)
    assert str(refused.value) == reason


def test_an_unhealthy_device_is_refused_with_its_reason() -> None:
    (unbound,) = devices(gpu("3b", 65, driver=None))
    (problem,) = unbound.problems
    with pytest.raises(DeviceUnavailable) as refused:
        choose([["65"]], (unbound,))
    assert str(refused.value) == f"device nvidia.com/pgpu=65 (0000:3b:00.0) is unhealthy: {problem}"


def test_an_endless_id_is_refused_in_a_message_of_some_words() -> None:
    with pytest.raises(InvalidRequest) as refused:
        choose([["x" * 100_000]], PAIR)
    assert len(str(refused.value)) < 200


def test_a_legacy_group_comes_with_the_container_node_once() -> None:
    assert nodes_of(PAIR) == ("/dev/vfio/vfio", "/dev/vfio/65", "/dev/vfio/66")


def test_a_device_with_a_cdev_gets_that_and_nothing_of_the_legacy_interface() -> None:
    assert nodes_of(devices(gpu("3b", 65, vfio_cdev="vfio3"))) == ("/dev/vfio/devices/vfio3",)


def test_the_backend_is_chosen_for_each_device() -> None:
    mixed = devices(gpu("3b", 65, vfio_cdev="vfio3"), gpu("5e", 66))
    assert [nodes_of([device]) for device in mixed] == [
        ("/dev/vfio/devices/vfio3",),
        ("/dev/vfio/vfio", "/dev/vfio/66"),
    ]


def test_legacy_mode_ignores_cdevs() -> None:
    forced = devices(gpu("3b", 65, vfio_cdev="vfio3"), mode=VfioMode.LEGACY)
    assert nodes_of(forced) == ("/dev/vfio/vfio", "/dev/vfio/65")


# --- preference

NODES = devices(
    gpu("10", 1, numa_node=0),
    gpu("20", 2, numa_node=0),
    gpu("30", 3, numa_node=0, enable=1),
    gpu("90", 9, numa_node=1),
    gpu("a0", 10, numa_node=1),
    gpu("b0", 11, numa_node=1),
    gpu("f0", 20),
)
ALL = [device.id for device in NODES]


def preferred(available: Sequence[str], size: int, *must_include: str) -> list[str]:
    return sorted(prefer(available, must_include, size, NODES), key=int)


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
