"""A kernel whose /sys, /dev/vfio and /proc are real files below a folder, and which answers writes as Linux does.

`kernel` is the way in. `tree` and `held_files` make the files, `hardware` and `drivers` say what there is, `state` what
is remembered, `core` holds the locks and waits; `binding`, `power`, `resets`, `vfio`, `vfio_files` and `hotplug` are
what happens, `writes` leads a written path there, and `writer` connects nodelib's KernelWriter.

Sources are named beside each behaviour: files of Linux 6.12, and the project's `facts`.
"""

from tests.fakes.kernel.core import Refused
from tests.fakes.kernel.drivers import KNOWN_DRIVERS, Driver, IdMatch
from tests.fakes.kernel.hardware import Hardware
from tests.fakes.kernel.kernel import FakeKernel
from tests.fakes.kernel.machines import VirtualMachine
from tests.fakes.kernel.state import Emulated, Faults, Uevent, Words
from tests.fakes.kernel.writer import SimulatedWriter, can_hold_children

__all__ = [
    "KNOWN_DRIVERS",
    "Driver",
    "Emulated",
    "FakeKernel",
    "Faults",
    "Hardware",
    "IdMatch",
    "Refused",
    "SimulatedWriter",
    "Uevent",
    "VirtualMachine",
    "Words",
    "can_hold_children",
]
