"""The steps that vfio-manager knows, each a line of text for people."""

from dataclasses import dataclass

from nodelib.pci import PciAddress


@dataclass(frozen=True, slots=True)
class LoadModule:
    """Have the kernel load a VFIO driver that it has not loaded."""

    module: str

    def __str__(self) -> str:
        return f"load the kernel module {self.module}"


@dataclass(frozen=True, slots=True)
class ForbidD3cold:
    """Keep the device from losing power altogether, which some GPUs do not come back from."""

    address: PciAddress

    def __str__(self) -> str:
        return f"forbid D3cold for {self.address}"


@dataclass(frozen=True, slots=True)
class CheckIdle:
    """Look once more whether a VM has it open: a plan may be older than a VM."""

    address: PciAddress

    def __str__(self) -> str:
        return f"check that {self.address} is idle"


@dataclass(frozen=True, slots=True)
class SetDriverOverride:
    """Let only *driver* bind; None lets the kernel choose."""

    address: PciAddress
    driver: str | None

    def __str__(self) -> str:
        if self.driver is None:
            return f"clear driver_override of {self.address}"
        return f"set driver_override of {self.address} to {self.driver}"


@dataclass(frozen=True, slots=True)
class Unbind:
    """Take the device from its driver."""

    address: PciAddress
    driver: str

    def __str__(self) -> str:
        return f"unbind {self.address} from {self.driver}"


@dataclass(frozen=True, slots=True)
class Bind:
    """Give the device to *driver*."""

    address: PciAddress
    driver: str

    def __str__(self) -> str:
        return f"bind {self.address} to {self.driver}"


@dataclass(frozen=True, slots=True)
class KeepAwake:
    """Keep the device in D0: the bind itself lets it fall asleep (`power/control` becomes `auto`)."""

    address: PciAddress

    def __str__(self) -> str:
        return f"keep {self.address} awake"


@dataclass(frozen=True, slots=True)
class Probe:
    """Let the kernel choose a driver."""

    address: PciAddress

    def __str__(self) -> str:
        return f"let the kernel probe drivers for {self.address}"


Step = ForbidD3cold | CheckIdle | SetDriverOverride | Unbind | Bind | KeepAwake | Probe
