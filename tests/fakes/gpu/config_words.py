"""What an emulated device adds to its configuration space beyond the usual header.

Facts, sections 2 and 5. Layout of extended capabilities: PCI Express Base Specification (id, version and next in the
first dword; of a DVSEC, id 0x23, the vendor in the second and the DVSEC's own id in the third).
"""

from tests.fakes.gpu.chips import Chip

FIREWALL_BIT = 20
HOPPER_FAULT_CODE, DVSEC_FAULT_CODE = 0x2B4, 0x14

_AER, _DVSEC = 0x0001, 0x0023
_FIRST, _FOREIGN, _OTHER, _NVIDIA = 0x100, 0x148, 0x160, 0x180
_COMPUTE_EXPRESS_LINK, _VENDOR_NVIDIA = 0x1E98, 0x10DE
# Bits around the one that counts, so that a client that looks at more of them is found out.
_RUBBISH = 1 << 19 | 1 << 21


def config_words(chip: Chip, *, has_dvsec: bool, is_firewalled: bool, fault_code: int) -> dict[int, int]:
    """Dwords by offset; every other is what the kernel made it."""
    if not chip.is_blackwell:
        return {HOPPER_FAULT_CODE: fault_code} if chip is Chip.GH100 else {}
    words = {_FIRST: _header(_AER, _FOREIGN)}
    # Before the one that counts stand one of another vendor with id 0 and one of NVIDIA's with another id, whose bits
    # look like a firewall that never falls.
    words |= _dvsec(_FOREIGN, _COMPUTE_EXPRESS_LINK, 1 << FIREWALL_BIT, following=_OTHER)
    words |= _dvsec(_OTHER, _VENDOR_NVIDIA, 1 << FIREWALL_BIT | 1, following=_NVIDIA if has_dvsec else 0)
    if has_dvsec:
        words |= _dvsec(_NVIDIA, _VENDOR_NVIDIA, is_firewalled << FIREWALL_BIT | _RUBBISH, following=0)
        words[_NVIDIA + DVSEC_FAULT_CODE] = fault_code
    return words


def _header(kind: int, following: int) -> int:
    return following << 20 | 1 << 16 | kind


def _dvsec(place: int, vendor: int, third: int, *, following: int) -> dict[int, int]:
    return {place: _header(_DVSEC, following), place + 4: 0x18 << 20 | vendor, place + 8: third}
