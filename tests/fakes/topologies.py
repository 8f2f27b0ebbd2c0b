"""Nodes by name: what is plugged in where, in which IOMMU group, on which driver.

Ids are those of the PCI id database. `dgx-h100` has the GPUs, switches and network cards where DGX H100 systems show
them; in the nodes with ACS each function has a group of its own, ports and host bridges too, as Linux makes them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from nodelib.nvidia import CLASS_3D, CLASS_NVSWITCH, CLASS_VGA, VENDOR_NVIDIA
from tests.fakes.capture import Capture
from tests.fakes.kernel import FakeKernel, Hardware
from tests.fakes.parts import (
    B200,
    CLASS_AUDIO,
    CLASS_NIC,
    CLASS_NVME,
    CLASS_OTHER,
    CLASS_PORT,
    CLASS_UCSI,
    CLASS_USB,
    GH200,
    H100_PCIE,
    H100_SXM,
    INTEL,
    MELLANOX,
    RTX_PRO_6000,
    each_in_its_own_group,
    gpu,
    host_bridge,
    in_group,
    nvswitch,
    other,
    port,
)

H200_VM = Path(__file__).parents[1] / "data/h200-vm-sysfs.json"
RTX_2080_TI, RTX_2080_TI_AUDIO, RTX_2080_TI_USB, RTX_2080_TI_UCSI = 0x1E07, 0x10F7, 0x1AD6, 0x1AD7

_HGX_GPU_BUSES = (0x1B, 0x43, 0x52, 0x61, 0x9D, 0xC3, 0xD1, 0xDF)
_HGX_SWITCH_BUSES = (0x07, 0x08, 0x09, 0x0A)

_DRIVER_OF_CLASS = {
    CLASS_PORT: "pcieport",
    CLASS_NVME: "nvme",
    CLASS_AUDIO: "snd_hda_intel",
    CLASS_USB: "xhci_hcd",
    CLASS_UCSI: "nvidia-gpu",
}


@dataclass(frozen=True, slots=True)
class Drivers:
    """What holds NVIDIA's devices at first; None: nothing does."""

    gpu: str | None = "nvidia"
    nvswitch: str | None = None

    def of(self, hardware: Hardware) -> str | None:
        if hardware.vendor == VENDOR_NVIDIA and hardware.pci_class in (CLASS_VGA, CLASS_3D):
            return self.gpu
        if hardware.vendor == VENDOR_NVIDIA and hardware.pci_class == CLASS_NVSWITCH:
            return self.nvswitch
        if hardware.vendor == MELLANOX:
            return "mlx5_core"
        return _DRIVER_OF_CLASS.get(hardware.pci_class)


Builder = Callable[[FakeKernel, Drivers], None]
"""Fills a kernel."""


def build(
    name: str,
    root: Path,
    *,
    drivers: Drivers | None = None,
    vfio_cdevs: bool = False,
    override_reads_block: bool = True,
) -> FakeKernel:
    """The node *name* below *root*: a name of TOPOLOGIES, or `scale-N` with N functions. ValueError for others.

    A captured node keeps the drivers that it was captured with.
    """
    number = name.removeprefix("scale-")
    builder = scale(int(number)) if number != name and number.isdigit() else TOPOLOGIES.get(name)
    if builder is None:
        raise ValueError(f"there is no topology {name!r}: take {', '.join(TOPOLOGIES)} or scale-N")
    is_captured = builder is h200_vm
    kernel = FakeKernel(
        root,
        release="6.18" if is_captured else "6.12",
        vfio_groups=not is_captured,
        vfio_cdevs=vfio_cdevs,
        override_reads_block=override_reads_block,
    )
    builder(kernel, drivers or Drivers())
    return kernel


def populate(kernel: FakeKernel, functions: Iterable[Hardware], drivers: Drivers) -> None:
    """Plug *functions* in, ports before what is behind them."""
    for function in sorted(functions, key=lambda function: function.address):
        kernel.add_device(function, driver=drivers.of(function))


# --- nodes


def dgx_h100(kernel: FakeKernel, drivers: Drivers) -> None:
    """8 GPUs and 8 network cards, a pair behind each PCIe switch, 4 NVSwitches; two NUMA nodes."""
    functions = _hgx_gpus(H100_SXM)
    functions += [host_bridge("0000:03:00.0", numa_node=0), port("0000:03:01.0", numa_node=0)]
    functions.append(port("0000:04:00.0", behind="0000:03:01.0", numa_node=0))
    for number, bus in enumerate(_HGX_SWITCH_BUSES):
        downstream = f"0000:05:{number:02x}.0"
        functions.append(port(downstream, behind="0000:04:00.0", numa_node=0))
        functions.append(nvswitch(f"0000:{bus:02x}:00.0", behind=downstream, numa_node=0))
    populate(kernel, each_in_its_own_group(functions), drivers)


def hgx_b200(kernel: FakeKernel, drivers: Drivers) -> None:
    """8 GPUs; the NVSwitches of this generation are no PCI functions of the host."""
    populate(kernel, each_in_its_own_group(_hgx_gpus(B200)), drivers)


def gh200(kernel: FakeKernel, drivers: Drivers) -> None:
    """One Grace Hopper part, for which the kernel has a VFIO driver of its own."""
    kernel.load_driver("nvgrace_gpu_vfio_pci")
    functions = [
        port("0009:00:00.0", numa_node=0),
        gpu("0009:01:00.0", GH200, behind="0009:00:00.0", numa_node=0),
        other("0002:01:00.0", MELLANOX, 0x1021, CLASS_NIC, numa_node=0),
    ]
    populate(kernel, each_in_its_own_group(functions), drivers)


def workstation(kernel: FakeKernel, drivers: Drivers) -> None:
    """A graphics card with audio, USB and UCSI functions, all in one group with the port that it sits behind."""
    behind = "0000:00:01.0"
    card = replace(gpu("0000:01:00.0", RTX_2080_TI, behind=behind), pci_class=CLASS_VGA, vf_total=None)
    companions = [
        other("0000:01:00.1", VENDOR_NVIDIA, RTX_2080_TI_AUDIO, CLASS_AUDIO, behind=behind, can_reset=False),
        other("0000:01:00.2", VENDOR_NVIDIA, RTX_2080_TI_USB, CLASS_USB, behind=behind, can_reset=False),
        other("0000:01:00.3", VENDOR_NVIDIA, RTX_2080_TI_UCSI, CLASS_UCSI, behind=behind, can_reset=False),
    ]
    functions = in_group(0, host_bridge("0000:00:00.0"))
    functions += in_group(1, port(behind), card, *companions)
    functions += in_group(2, other("0000:00:14.0", INTEL, 0x7AE0, CLASS_USB))
    functions += in_group(3, other("0000:00:1f.3", INTEL, 0x7AD0, CLASS_AUDIO))
    populate(kernel, functions, drivers)


def shared_group(kernel: FakeKernel, drivers: Drivers) -> None:
    """Two GPUs behind one switch without ACS: one group, ports included."""
    root, upstream, left, right = "0000:3a:00.0", "0000:3b:00.0", "0000:3c:00.0", "0000:3c:01.0"
    functions = in_group(11, port(root, numa_node=0))
    functions += in_group(
        12,
        port(upstream, behind=root, numa_node=0),
        port(left, behind=upstream, numa_node=0),
        port(right, behind=upstream, numa_node=0),
        gpu("0000:3d:00.0", H100_PCIE, behind=left, numa_node=0),
        gpu("0000:3e:00.0", H100_PCIE, behind=right, numa_node=0),
    )
    populate(kernel, functions, drivers)


def mixed(kernel: FakeKernel, drivers: Drivers) -> None:
    """Two models of two generations, two of each."""
    models = {0x17: H100_PCIE, 0x3B: H100_PCIE, 0x98: RTX_PRO_6000, 0xB1: RTX_PRO_6000}
    functions: list[Hardware] = []
    for bus, model in models.items():
        numa_node = int(bus >= 0x80)
        behind = f"0000:{bus - 1:02x}:00.0"
        functions += [
            port(behind, numa_node=numa_node),
            gpu(f"0000:{bus:02x}:00.0", model, behind=behind, numa_node=numa_node),
        ]
    populate(kernel, each_in_its_own_group(functions), drivers)


def h200_vm(kernel: FakeKernel, drivers: Drivers) -> None:
    """The replay of a real machine (tests/data/README.md)."""
    Capture(H200_VM).replay(kernel)


def scale(count: int) -> Builder:
    """*count* functions: of each 8 one GPU, a network card, an NVMe disk, and 5 that nothing cares for."""
    kinds = [(MELLANOX, 0x1021, CLASS_NIC), (INTEL, 0x0A54, CLASS_NVME), *([(INTEL, 0x09A6, CLASS_OTHER)] * 5)]

    def place(number: int) -> Hardware:
        slot, device = divmod(number, 8)
        domain, bus = divmod(slot, 256)
        address = f"{domain:04x}:{bus:02x}:{device:02x}.0"
        if not device:
            return gpu(address, numa_node=slot % 2)
        return other(address, *kinds[device - 1], numa_node=slot % 2)

    def builder(kernel: FakeKernel, drivers: Drivers) -> None:
        populate(kernel, each_in_its_own_group(place(number) for number in range(count)), drivers)

    return builder


def _hgx_gpus(device: int) -> list[Hardware]:
    """8 PCIe switches, each with a network card and a GPU, behind a root port of their own."""
    functions: list[Hardware] = []
    for bus in _HGX_GPU_BUSES:
        numa_node = int(bus >= 0x80)
        root, upstream = f"0000:{bus - 6:02x}:01.0", f"0000:{bus - 5:02x}:00.0"
        to_card, to_gpu = f"0000:{bus - 4:02x}:00.0", f"0000:{bus - 4:02x}:02.0"
        functions += [
            host_bridge(f"0000:{bus - 6:02x}:00.0", numa_node=numa_node),
            port(root, numa_node=numa_node),
            port(upstream, behind=root, numa_node=numa_node),
            port(to_card, behind=upstream, numa_node=numa_node),
            port(to_gpu, behind=upstream, numa_node=numa_node),
            other(f"0000:{bus - 3:02x}:00.0", MELLANOX, 0x1021, CLASS_NIC, behind=to_card, numa_node=numa_node),
            gpu(f"0000:{bus:02x}:00.0", device, behind=to_gpu, numa_node=numa_node),
        ]
    return functions


TOPOLOGIES: dict[str, Builder] = {
    "dgx-h100": dgx_h100,
    "hgx-b200": hgx_b200,
    "gh200": gh200,
    "workstation": workstation,
    "shared-group": shared_group,
    "mixed": mixed,
    "h200-vm": h200_vm,
}
