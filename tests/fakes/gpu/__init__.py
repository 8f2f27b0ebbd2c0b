"""GPUs and NVSwitches as the host sees them through BAR0, with the firmware behind it.

Written from facts/fsp-and-cc-mode.md alone ("facts" in the comments below), never from the client, so
that a misunderstanding on one side is caught by the other. `chips` holds the register maps, `knobs`
what the firmware remembers, `fsp` the messages it takes, `emem` and `mnoc` the transports that carry
them, `boot` what a reset leads through, `config_words` what is seen in configuration space, `faults`
what can go wrong on command, `device` puts them together and `words` behind BAR0.

Another generation is another row in `chips`; another transport is another class beside `emem`.
"""

from tests.fakes.gpu.chips import Chip, chip_behind
from tests.fakes.gpu.device import EmulatedDevice, PowerState
from tests.fakes.gpu.faults import Faults, FspError, MailboxMoment
from tests.fakes.gpu.knobs import ActiveMode
from tests.fakes.gpu.words import Words

__all__ = [
    "ActiveMode",
    "Chip",
    "EmulatedDevice",
    "Faults",
    "FspError",
    "MailboxMoment",
    "PowerState",
    "Words",
    "chip_behind",
]
