"""GPUs and NVSwitches as the host sees them through BAR0, with the firmware behind it.

Written from facts/fsp-and-cc-mode.md alone ("facts" in the comments below), never from the client, so
that a misunderstanding on one side is caught by the other. `chips` holds the register maps, `knobs`
what the firmware remembers, `fsp` the messages it takes, `emem` the transport that carries them,
`faults` what can go wrong on command, and `device` puts them behind one BAR0.

Another generation is another row in `chips`; another transport is another class beside `emem`.
"""

from tests.fakes.gpu.chips import Chip
from tests.fakes.gpu.device import EmulatedDevice, PowerState, Words
from tests.fakes.gpu.faults import Faults, FspError
from tests.fakes.gpu.knobs import ActiveMode

__all__ = ["ActiveMode", "Chip", "EmulatedDevice", "Faults", "FspError", "PowerState", "Words"]
