"""What a Blackwell GPU tells in configuration space while its BAR0 is closed: the firewall, and the code of a fault.

Places and time limits: facts/fsp-and-cc-mode.md sections 2 and 5.
"""

from cc_manager.clock import Clock
from cc_manager.errors import NotBooted
from cc_manager.gpu.chips import IDENTITY, ConfigPlace
from cc_manager.gpu.registers import GONE, Registers
from nodelib.config_space import EXTENDED_BYTES, find_dvsec, word_at
from nodelib.nvidia import VENDOR_NVIDIA
from nodelib.pci import PciAddress
from nodelib.sysfs import Sysfs

FIREWALL_TIMEOUT_S = 5.0
FIREWALL_POLL_S = 0.010
BLIND_WAIT_S = 3.0
"""How long to wait at least where no capability tells: the device has none, or we may not see it (CAP_SYS_ADMIN)."""

_DVSEC_ID = 0
_STATE = 8
"""The word of the capability that holds the firewall's bit."""
_IS_UP = 1 << 20


def pass_firewall(sysfs: Sysfs, address: PciAddress, registers: Registers, clock: Clock, *, wait: bool) -> None:
    """Return once BAR0 answers. Raises NotBooted where it is closed for too long, or at all without *wait*."""
    place = _capability(sysfs, address)
    if place is None:
        if wait and registers.read32(IDENTITY) == GONE:
            clock.sleep(BLIND_WAIT_S)
            # A capability that is only hidden from us would have been waited for longer. Whoever reads next is told if
            # the firewall was not it.
            left_s = FIREWALL_TIMEOUT_S - BLIND_WAIT_S
            clock.wait_until(lambda: registers.read32(IDENTITY) != GONE, left_s, FIREWALL_POLL_S)
        return
    limit_s = FIREWALL_TIMEOUT_S if wait else 0.0
    if not clock.wait_until(lambda: _is_open(sysfs, address, place), limit_s, FIREWALL_POLL_S):
        raise NotBooted(
            address,
            "reach its registers",
            f"the firewall before its BAR0 is still up{f' after {limit_s:g} s' if wait else ''}: it is resetting",
            remedy="reset the device, or power-cycle the node if it stays so",
        )


def security_fault_code(sysfs: Sysfs, address: PciAddress, place: ConfigPlace | None) -> int | None:
    """The code of a security fault, None where it cannot be read."""
    if place is None:
        return None
    start = _capability(sysfs, address) if place.is_in_dvsec else 0
    return None if start is None else word_at(_config(sysfs, address, EXTENDED_BYTES), start + place.offset)


def _is_open(sysfs: Sysfs, address: PciAddress, place: int) -> bool:
    word = word_at(_config(sysfs, address, place + _STATE + 4), place + _STATE)
    return word not in (None, GONE) and not word & _IS_UP


def _capability(sysfs: Sysfs, address: PciAddress) -> int | None:
    return find_dvsec(_config(sysfs, address, EXTENDED_BYTES), VENDOR_NVIDIA, _DVSEC_ID)


def _config(sysfs: Sysfs, address: PciAddress, size: int) -> bytes:
    return sysfs.config([address], size)[address].header
