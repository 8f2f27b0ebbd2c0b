"""The errors that nodelib and the agents raise; only `cli` turns them into exit codes.

NodeError                 one sentence for the person at the keyboard, exit code 1
├── InvalidValue          a flag, label, name, file or answer that cannot be meant: exit code 2
├── NotSupported          this node cannot do it, whatever is asked: exit code 3
└── DeviceError           one device could not be read or changed; names its PCI address
    ├── DeviceGone        it left the bus, or its folder vanished between two accesses
    ├── DeviceBusy        somebody uses it (EBUSY, or a VM has it open)
    └── DeviceHung        the kernel did not answer by the deadline; it may still hold the device
"""

from nodelib.pci import PciAddress


class NodeError(Exception):
    """Something an administrator can act on; its text is the whole message."""

    exit_code = 1


class InvalidValue(NodeError):
    """A value from outside (flag, label, file, answer) that breaks its rules."""

    exit_code = 2


class NotSupported(NodeError):
    """The node lacks what the verb needs."""

    exit_code = 3


class DeviceError(NodeError):
    """One device could not be read or changed; the others are not affected."""

    def __init__(self, address: PciAddress, reason: str) -> None:
        super().__init__(f"{address}: {reason}")
        self.address = address
        self.reason = reason


class DeviceGone(DeviceError):
    """The device is no longer there."""


class DeviceBusy(DeviceError):
    """The device is in use."""


class DeviceHung(DeviceError):
    """The kernel did not answer within the deadline."""
