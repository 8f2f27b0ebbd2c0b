"""The PCI drivers that the simulated kernel can load, and which devices each of them takes.

Matching: Linux, drivers/pci/pci-driver.c, pci_match_device. Ids: the named modules' own tables.
"""

from dataclasses import dataclass

from nodelib.nvidia import CLASS_3D, CLASS_NVSWITCH, CLASS_VGA, VENDOR_NVIDIA
from tests.fakes.kernel.hardware import Hardware


@dataclass(frozen=True, slots=True)
class IdMatch:
    """One entry of a driver's id table; None and mask 0 match anything."""

    vendor: int | None = None
    device: int | None = None
    pci_class: int = 0
    class_mask: int = 0

    def matches(self, hardware: Hardware) -> bool:
        return (
            self.vendor in (None, hardware.vendor)
            and self.device in (None, hardware.device)
            and not (hardware.pci_class ^ self.pci_class) & self.class_mask
        )


@dataclass(frozen=True, slots=True)
class Driver:
    name: str
    module: str
    ids: tuple[IdMatch, ...] = ()
    """What it takes of its own accord; VFIO drivers have ids for `driver_override` only."""
    is_vfio: bool = False
    shares_dma: bool = False
    """`driver_managed_dma`: bound to it, a member does not keep its group from being given away."""
    waits_for_users: bool = False
    """Its removal blocks while a process has the device open."""


def _of_class(pci_class: int, vendor: int | None = None) -> IdMatch:
    return IdMatch(vendor, None, pci_class, 0xFFFF00)


_DRIVERS = (
    Driver("pcieport", "pcieport", (_of_class(0x060400),), shares_dma=True),
    Driver("pci-stub", "pci_stub", shares_dma=True),
    Driver("vfio-pci", "vfio_pci", is_vfio=True, shares_dma=True),
    Driver("nvgrace_gpu_vfio_pci", "nvgrace_gpu_vfio_pci", is_vfio=True, shares_dma=True),
    # "Attempting to remove device with non-zero usage count": the open kernel module waits for the last close.
    Driver(
        "nvidia",
        "nvidia",
        (_of_class(CLASS_VGA, VENDOR_NVIDIA), _of_class(CLASS_3D, VENDOR_NVIDIA)),
        waits_for_users=True,
    ),
    Driver("nvidia-nvswitch", "nvidia", (_of_class(CLASS_NVSWITCH, VENDOR_NVIDIA),)),
    Driver("nouveau", "nouveau", (_of_class(CLASS_VGA, VENDOR_NVIDIA), _of_class(CLASS_3D, VENDOR_NVIDIA))),
    Driver("snd_hda_intel", "snd_hda_intel", (_of_class(0x040300),)),
    Driver("xhci_hcd", "xhci_pci", (IdMatch(None, None, 0x0C0330, 0xFFFFFF),)),
    Driver("nvidia-gpu", "i2c_nvidia_gpu", (_of_class(0x0C8000, VENDOR_NVIDIA),)),
    Driver("mlx5_core", "mlx5_core", (IdMatch(0x15B3),)),
    Driver("nvme", "nvme", (IdMatch(None, None, 0x010802, 0xFFFFFF),)),
    Driver("virtio-pci", "virtio_pci", (IdMatch(0x1AF4),)),
)
KNOWN_DRIVERS = {driver.name: driver for driver in _DRIVERS}

# The lines of modules.alias that a choice of VFIO driver depends on, `alias <pattern> <module>`. The ids are those of
# Linux, drivers/vfio/pci/nvgrace-gpu/main.c and drivers/vfio/pci/mlx5/main.c.
MODULE_ALIASES = (
    "alias vfio_pci:v000010DEd00002941sv*sd*bc*sc*i* nvgrace_gpu_vfio_pci",
    "alias vfio_pci:v000010DEd00002348sv*sd*bc*sc*i* nvgrace_gpu_vfio_pci",
    "alias vfio_pci:v000010DEd00002345sv*sd*bc*sc*i* nvgrace_gpu_vfio_pci",
    "alias vfio_pci:v000010DEd00002342sv*sd*bc*sc*i* nvgrace_gpu_vfio_pci",
    "alias vfio_pci:v000015B3d0000101Esv*sd*bc*sc*i* mlx5_vfio_pci",
    "alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci",
    "alias pci:v000010DEd*sv*sd*bc06sc80i00* nvidia",
    "alias pci:v000010DEd*sv*sd*bc03sc02i00* nvidia",
    "alias pci:v000010DEd*sv*sd*bc03sc00i00* nvidia",
    "alias pci:v*d*sv*sd*bc0Csc03i30* xhci_pci",
)
