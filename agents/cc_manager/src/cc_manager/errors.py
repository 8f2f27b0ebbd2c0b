"""What can go wrong between cc-manager and one device, on top of the errors of nodelib.

DeviceError               (nodelib) names the PCI address
├── UnsupportedDevice     its chip, or this mode on it, is not supported: exit code 3
├── Bar0Refused           the kernel does not let us map its registers
├── DeviceAsleep          it sleeps and is only looked at
├── BusError              its internal bus answered with an error marker
├── FaultyDevice          it is in recovery mode or has a security fault: nothing may be written to it
└── FirmwareError         its firmware did not do what was asked
    ├── NotAllowedInBand  only the baseboard controller may change this knob
    └── NotBooted         its boot is not complete
FspFault                  why one exchange failed; `prc` makes it a FirmwareError, so nobody else sees it
"""

from nodelib.errors import DeviceBusy, DeviceError, DeviceGone, DeviceHung, NotSupported
from nodelib.pci import PciAddress

NO_SUCH_KNOB = 0x1E3
"""The FSP's error code for a knob that its firmware does not have."""


class UnsupportedDevice(DeviceError):
    """The device cannot do it, whatever is tried."""

    exit_code = NotSupported.exit_code


class Bar0Refused(DeviceError):
    """BAR0 cannot be mapped."""


class DeviceAsleep(DeviceError):
    """It is in D3, and nobody may wake it only to look at it."""


class BusError(DeviceError):
    """A register read 0xbadf....: the internal bus could not reach it."""

    def __init__(self, address: PciAddress, why: str) -> None:
        super().__init__(address, f"{why}; reset the device, or power-cycle the node if that does not help")
        self.why = why
        """The reason alone, for a sentence of another error."""


class FaultyDevice(DeviceError):
    """The device asks for repair; it is reported and nothing is written."""


class FirmwareError(DeviceError):
    """The firmware refused, or did not answer, what was *asked* of it (a verb phrase: `read knob 8`)."""

    def __init__(
        self, address: PciAddress, asked: str, reason: str, *, code: int | None = None, remedy: str = ""
    ) -> None:
        super().__init__(address, f"could not {asked}: {reason}" + (f"; {remedy}" if remedy else ""))
        self.asked = asked
        self.why = reason
        """The reason alone, for a sentence of another error."""
        self.code = code
        """The FSP's error code, where it answered with one."""


class NotAllowedInBand(FirmwareError):
    """The host may not change this knob; only the baseboard controller can."""


class NotBooted(FirmwareError):
    """The device's boot is not complete, so its mode register means nothing yet."""


def may_pass(error: DeviceError) -> bool:
    """Whether the same, tried again, may succeed: a silent firmware or a mode that did not stick may, a missing right
    or a device that is gone or in use does not by itself."""
    if isinstance(error, FirmwareError):
        return not isinstance(error, NotAllowedInBand) and error.code != NO_SUCH_KNOB
    return not isinstance(error, (UnsupportedDevice, Bar0Refused, FaultyDevice, DeviceGone, DeviceBusy, DeviceHung))


class FspFault(Exception):
    """Why one exchange with the FSP failed, said without the device and the question."""
