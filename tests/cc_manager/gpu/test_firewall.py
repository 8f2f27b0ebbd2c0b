"""The firewall before a Blackwell GPU's BAR0, and the code of a security fault, both told in configuration space."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from cc_manager.clock import Clock
from cc_manager.errors import NotBooted
from cc_manager.gpu.chips import BLACKWELL_GB1XX, HOPPER_GPU, NVSWITCH_GEN3
from cc_manager.gpu.firewall import pass_firewall, security_fault_code
from cc_manager.gpu.registers import GONE
from nodelib.files import HostRoot
from nodelib.slow_reads import SlowReader
from nodelib.sysfs import Sysfs
from tests.cc_manager.scripted import ConstantRegisters, FakeTime
from tests.nodelib.samples import Tree, at

GPU = at("3b")
UP, DOWN = 1 << 20, 0
REACHABLE, CLOSED = ConstantRegisters({0x0: 0x1B20_00A1}), ConstantRegisters({0x0: 0xFFFF_FFFF})


def config(state: int = DOWN, *, has_capability: bool = True, code: int = 0) -> bytes:
    """4 KiB with two extended capabilities: another maker's at 0x100, and NVIDIA's, of id 0, at 0x240."""
    space = bytearray(4096)
    struct.pack_into("<HHH", space, 0, 0x10DE, 0x2901, 0x0006)
    struct.pack_into("<III", space, 0x100, 0x2401_0023, 0x0100_8086, 0x0000_0000)
    if has_capability:
        struct.pack_into("<III", space, 0x240, 0x0001_0023, 0x0180_10DE, state)
    struct.pack_into("<I", space, 0x240 + 0x14, code)
    struct.pack_into("<I", space, 0x2B4, 0x4711)
    return bytes(space)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path)
    tree.add("3b", device="0x2901")
    return tree


@pytest.fixture
def sysfs(tree: Tree) -> Iterator[Sysfs]:
    sysfs = Sysfs(HostRoot(tree.root), slow_reader=SlowReader(10.0))
    yield sysfs
    sysfs.close()


class OpensLater:
    """BAR0 of a device whose firewall comes down after so many reads."""

    def __init__(self, reads: int) -> None:
        self._left = reads

    def read32(self, offset: int) -> int:
        self._left -= 1
        return GONE if self._left > 0 else 0x1B20_00A1

    def write32(self, offset: int, value: int) -> None:
        raise AssertionError("nothing is written through a firewall")


def show(tree: Tree, space: bytes) -> None:
    (tree.folder("3b") / "config").write_bytes(space)


class Firewall(FakeTime):
    """Comes down while somebody sleeps."""

    def __init__(self, tree: Tree, after: int) -> None:
        super().__init__()
        self._tree = tree
        self._after = after

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if len(self.slept) == self._after:
            show(self._tree, config(DOWN))


def test_where_it_is_down_nothing_is_waited_for(tree: Tree, sysfs: Sysfs) -> None:
    show(tree, config(DOWN))
    time = FakeTime()
    pass_firewall(sysfs, GPU, CLOSED, time.clock, wait=True)
    assert time.slept == []


def test_it_is_waited_for_until_its_bit_clears(tree: Tree, sysfs: Sysfs) -> None:
    show(tree, config(UP))
    time = Firewall(tree, after=3)
    pass_firewall(sysfs, GPU, CLOSED, time.clock, wait=True)
    assert time.slept == [0.01] * 3


def test_only_bit_20_counts(tree: Tree, sysfs: Sysfs) -> None:
    show(tree, config(0xFFEF_0000))
    pass_firewall(sysfs, GPU, CLOSED, FakeTime().clock, wait=True)


def test_one_that_stays_up_is_given_up_after_five_seconds(tree: Tree, sysfs: Sysfs) -> None:
    show(tree, config(UP))
    time = FakeTime(lag_s=0.49)
    with pytest.raises(NotBooted) as caught:
        pass_firewall(sysfs, GPU, CLOSED, time.clock, wait=True)
    assert str(caught.value) == (
        "0000:3b:00.0: could not reach its registers: the firewall before its BAR0 is still up after 5 s: it is "
        "resetting; reset the device, or power-cycle the node if it stays so"
    )
    assert sum(time.slept) == pytest.approx(0.1)
    assert time.now == pytest.approx(105.0)


def test_who_only_looks_does_not_wait(tree: Tree, sysfs: Sysfs) -> None:
    show(tree, config(UP))
    time = FakeTime()
    with pytest.raises(NotBooted, match="the firewall before its BAR0 is still up: it is resetting"):
        pass_firewall(sysfs, GPU, CLOSED, time.clock, wait=False)
    assert time.slept == []


@pytest.mark.parametrize("space", [config(has_capability=False), config(UP)[:64]], ids=["none", "header only"])
def test_without_the_capability_three_seconds_are_waited_where_bar0_does_not_answer(
    tree: Tree, sysfs: Sysfs, space: bytes
) -> None:
    show(tree, space)
    time = FakeTime()
    pass_firewall(sysfs, GPU, REACHABLE, time.clock, wait=True)
    assert time.slept == []
    pass_firewall(sysfs, GPU, OpensLater(reads=4), time.clock, wait=True)
    assert time.slept == [3.0, 0.01, 0.01]


@pytest.mark.parametrize("space", [config(has_capability=False), config(UP)[:64]], ids=["none", "header only"])
def test_without_the_capability_it_is_waited_for_as_long_as_with_it(tree: Tree, sysfs: Sysfs, space: bytes) -> None:
    show(tree, space)
    time = FakeTime(lag_s=0.49)
    pass_firewall(sysfs, GPU, CLOSED, time.clock, wait=True)  # the next read tells that the device is gone
    assert time.slept[0] == 3.0
    assert 105.0 <= time.now < 106.0


def test_who_only_looks_does_not_wait_without_the_capability_either(tree: Tree, sysfs: Sysfs) -> None:
    show(tree, config(has_capability=False))
    pass_firewall(sysfs, GPU, CLOSED, Clock(sleep=lambda _: pytest.fail("it waited")), wait=False)


def test_the_code_of_a_security_fault_is_where_each_chip_keeps_it(tree: Tree, sysfs: Sysfs) -> None:
    show(tree, config(code=0x17))
    assert security_fault_code(sysfs, GPU, BLACKWELL_GB1XX.security_fault_code) == 0x17
    assert security_fault_code(sysfs, GPU, HOPPER_GPU.security_fault_code) == 0x4711
    assert security_fault_code(sysfs, GPU, NVSWITCH_GEN3.security_fault_code) is None


@pytest.mark.parametrize("space", [config(has_capability=False), config()[:64]], ids=["none", "header only"])
def test_a_code_that_cannot_be_read_is_none(tree: Tree, sysfs: Sysfs, space: bytes) -> None:
    show(tree, space)
    assert security_fault_code(sysfs, GPU, BLACKWELL_GB1XX.security_fault_code) is None
