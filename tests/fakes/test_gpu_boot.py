"""The emulated Blackwell GPU from its reset to boot complete, and what it shows of it in configuration space."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nodelib.pci import PciAddress
from tests.fakes.gpu import Chip, EmulatedDevice, Faults
from tests.fakes.gpu_script import Clock, complaint
from tests.fakes.kernel import FakeKernel
from tests.fakes.mailbox_script import TO_INFO, read_knob
from tests.fakes.parts import B200, gpu
from tests.fakes.polling import until

GONE, NOT_YET = 0xFFFFFFFF, 0xBADF5040
BOOT, CONSUMER_BOOT, MODE, RECOVERY = 0x200BC // 4, 0xAD00BC // 4, 0x590 // 4, 0x8AA128 // 4
BLACKWELL = [chip for chip in Chip if chip.name.startswith("GB")]
ADDRESS = PciAddress.parse("0000:1b:00.0")


@dataclass(slots=True)
class CallingClock(Clock):
    """Calls what is due when it is moved on."""

    due: list[tuple[float, Callable[[], None]]] = field(default_factory=list)

    def call_at(self, when: float, do: Callable[[], None]) -> None:
        self.due.append((when, do))

    def pass_on(self, seconds: float) -> None:
        self.now += seconds
        for when, do in self.due:
            if when <= self.now:
                do()


@pytest.fixture
def clock() -> CallingClock:
    return CallingClock()


@pytest.fixture
def device(clock: CallingClock) -> EmulatedDevice:
    return EmulatedDevice(
        Chip.GB100, clock=clock, call_at=clock.call_at, boot_time_s=3, firewall_time_s=1, bus_error_time_s=2
    )


@pytest.mark.parametrize("chip", BLACKWELL)
def test_every_blackwell_chip_has_its_own_boot_register(chip: Chip) -> None:
    mine, other = (CONSUMER_BOOT, BOOT) if chip.name.startswith("GB20") else (BOOT, CONSUMER_BOOT)
    words = EmulatedDevice(chip).bar0()
    assert words[mine] == 0xFF
    assert words[other] >> 16 == 0xBADF
    assert words[0] not in {0, GONE, 0xBADF0200, 0xBAD00200}
    assert words[RECOVERY] & 0xFF in {0, 1}


@pytest.mark.parametrize(
    ("knobs", "bits", "decouples"),
    [({}, 0b00, False), ({8: 1}, 0b01, True), ({8: 1, 6: 1}, 0b11, True), ({6: 1}, 0b10, True), ({10: 1}, 0, True)],
)
def test_the_mode_register_shows_the_mode_and_the_decoupler(knobs: dict[int, int], bits: int, decouples: bool) -> None:
    assert EmulatedDevice(Chip.GB100, knobs=knobs).bar0()[MODE] == bits | decouples << 2


def test_a_boot_goes_through_all_ones_and_bus_errors(device: EmulatedDevice, clock: CallingClock) -> None:
    words = device.bar0()
    device.knobs[8] = 1
    device.reset()
    registers = (0, BOOT, MODE, RECOVERY, TO_INFO)
    assert {words[register] for register in registers} == {GONE}
    clock.now += 1
    assert {words[register] for register in registers} == {NOT_YET}
    clock.now += 1
    assert words[0] == Chip.GB100.value.identity
    assert words[BOOT] not in {0xFF, GONE, NOT_YET}
    assert words[MODE] == 0
    assert words[TO_INFO] == 0
    clock.now += 1
    assert words[BOOT] == 0xFF
    assert words[MODE] == 0b101
    assert read_knob(words, clock, 8) == 1
    assert device.complaints == []


@pytest.mark.parametrize("later_s", [0, 1])
def test_a_write_before_the_device_lets_anybody_write_is_lost_and_complained_of(
    device: EmulatedDevice, clock: CallingClock, later_s: float
) -> None:
    words = device.bar0()
    device.reset()
    clock.now += later_s
    words[TO_INFO] = 0x0010000C
    assert complaint(device) == "0x8f1f84 := 0x10000c before the device lets anybody write"


@pytest.mark.parametrize(
    ("faults", "reads"),
    [
        (Faults(firewall_stays_up=True), GONE),
        (Faults(bus_errors_never_end=True), NOT_YET),
        (Faults(boot_never_completes=True), 0x03),
    ],
)
def test_a_boot_that_gets_only_so_far(device: EmulatedDevice, clock: CallingClock, faults: Faults, reads: int) -> None:
    device.at_reset[1] = faults
    device.at_reset[2] = Faults()
    words = device.bar0()
    assert words[BOOT] == 0xFF
    device.reset()
    clock.now += 1000
    assert words[BOOT] == reads
    device.reset()
    clock.now += 3
    assert words[BOOT] == 0xFF


def test_a_fault_at_one_reset_alone(device: EmulatedDevice, clock: CallingClock) -> None:
    device.at_reset = {2: Faults(keeps_old_mode=True), 3: Faults()}
    shown = []
    for value in (1, 0, 0):
        device.knobs[8] = value
        device.reset()
        clock.now += 3
        shown.append(device.bar0()[MODE] & 0b11)
    assert shown == [1, 1, 0]


def test_the_fsp_of_a_device_that_never_boots_may_still_answer(device: EmulatedDevice, clock: CallingClock) -> None:
    device.at_reset[1] = Faults(boot_never_completes=True, fsp_answers_while_booting=True)
    device.reset()
    clock.now += 2
    assert read_knob(device.bar0(), clock, 8) == 0
    assert device.complaints == []


def test_recovery_mode_is_in_the_low_byte(device: EmulatedDevice) -> None:
    device.faults.is_in_recovery = True
    words = device.bar0()
    assert words[RECOVERY] & 0xFF not in {0, 1}
    assert words[BOOT] != 0xFF


def test_a_switch_of_the_second_generation_has_its_identity_and_nothing_else() -> None:
    switch = EmulatedDevice(Chip.NVSWITCH_GEN2)
    words = switch.bar0()
    assert words[0] == 0x006000A1
    assert switch.complaints == []
    for register in (0x660BC // 4, 0x28C50 // 4, 0x66120 // 4, 0x8F2C10 // 4):
        assert words[register] >> 16 == 0xBADF
    assert len(switch.complaints) == 4


# Configuration space


def dword(kernel: FakeKernel, offset: int) -> int:
    config = (kernel.host.root / f"sys/bus/pci/devices/{ADDRESS}/config").read_bytes()
    return int.from_bytes(config[offset : offset + 4], "little")


def dvsecs(kernel: FakeKernel) -> dict[tuple[int, int], int]:
    """Offset of each DVSEC by vendor and id, found by following the list of extended capabilities."""
    found, offset = {}, 0x100
    while offset:
        header = dword(kernel, offset)
        if header & 0xFFFF == 0x0023:
            found[dword(kernel, offset + 4) & 0xFFFF, dword(kernel, offset + 8) & 0xFFFF] = offset
        offset = header >> 20
    return found


def kernel_with(root: Path, device: EmulatedDevice) -> FakeKernel:
    kernel = FakeKernel(root)
    kernel.add_device(gpu(str(ADDRESS), B200))
    kernel.attach(ADDRESS, device)
    return kernel


def is_up(kernel: FakeKernel) -> bool:
    return bool(dword(kernel, 0x188) >> 20 & 1)


def test_the_firewall_shows_in_configuration_space(tmp_path: Path, device: EmulatedDevice, clock: CallingClock) -> None:
    with kernel_with(tmp_path, device) as kernel:
        found = dvsecs(kernel)
        assert found == {(0x1E98, 0): 0x148, (0x10DE, 1): 0x160, (0x10DE, 0): 0x180}
        assert not is_up(kernel)
        assert kernel.write(tmp_path / f"sys/bus/pci/devices/{ADDRESS}/reset", "1") == 0
        assert is_up(kernel)
        clock.pass_on(0.9)
        assert is_up(kernel)
        clock.pass_on(0.125)
        assert not is_up(kernel)
        assert dword(kernel, 0) == B200 << 16 | 0x10DE


def test_in_real_time_the_firewall_falls_by_itself(tmp_path: Path) -> None:
    device = EmulatedDevice(Chip.GB100, boot_time_s=0.3, firewall_time_s=0.2)
    with kernel_with(tmp_path, device) as kernel:
        begin = time.monotonic()
        device.reset()
        assert is_up(kernel) or time.monotonic() >= begin + 0.2
        until(lambda: not is_up(kernel))
        assert time.monotonic() >= begin + 0.2


def test_without_the_capability_bar0_alone_shows_the_firewall(tmp_path: Path) -> None:
    device = EmulatedDevice(Chip.GB100, has_dvsec=False, boot_time_s=1000)
    with kernel_with(tmp_path, device) as kernel:
        device.reset()
        assert (0x10DE, 0) not in dvsecs(kernel)
        assert device.bar0()[BOOT] == GONE


def test_without_the_right_to_read_it_configuration_space_ends_after_64_bytes(tmp_path: Path) -> None:
    # drivers/pci/pci-sysfs.c, pci_read_config
    with FakeKernel(tmp_path) as kernel:
        kernel.faults.config_bytes = 64
        kernel.add_device(gpu(str(ADDRESS), B200))
        kernel.attach(ADDRESS, EmulatedDevice(Chip.GB100))
        assert len((tmp_path / f"sys/bus/pci/devices/{ADDRESS}/config").read_bytes()) == 64


@pytest.mark.parametrize(("chip", "offset"), [(Chip.GH100, 0x2B4), (Chip.GB100, 0x194)])
def test_the_code_of_a_security_fault_is_in_configuration_space(tmp_path: Path, chip: Chip, offset: int) -> None:
    # Facts, section 5: 0x2b4 on Hopper, DVSEC + 0x14 on Blackwell.
    device = EmulatedDevice(chip, faults=Faults(identity=0xBADF0200, fault_code=0x17))
    with kernel_with(tmp_path, device) as kernel:
        assert dword(kernel, offset) == 0x17
        assert device.bar0()[0] == 0xBADF0200


def test_a_device_that_falls_off_the_bus_at_an_access_loses_its_configuration_space_too(
    tmp_path: Path, device: EmulatedDevice
) -> None:
    with kernel_with(tmp_path, device) as kernel:
        device.faults.gone_at_access = 1
        assert device.bar0()[BOOT] == GONE
        assert dword(kernel, 0) == GONE
