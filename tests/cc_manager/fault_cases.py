"""Everything that can be made to go wrong with a device during a change of mode, and whom it concerns."""

import dataclasses
import errno
from collections.abc import Callable
from dataclasses import dataclass

from nodelib.pci import PciAddress
from tests.cc_manager.simulated import CcNode
from tests.fakes.gpu import EmulatedDevice, Faults, FspError, MailboxMoment

HOPPER, BLACKWELL = "Hopper", "Blackwell"
WHOLE, READ_DONE = 0xC0000000, 0x1510DE7E
STALE = (WHOLE, READ_DONE, 9, 0x13, 0, 1)
"""An answer to a knob read of somebody else's: the knob is 1."""
HALF_A_WRITE = (WHOLE, 0x1310DE7E, 0x0008020D)

Break = Callable[[CcNode, PciAddress], None]
Concerns = Callable[[str, str], bool]
"""Whether a change from the first mode to the second meets the fault."""

_CC, _DEVTOOLS, _PPCIE = {"on", "devtools"}, {"devtools"}, {"ppcie"}


@dataclass(frozen=True, slots=True)
class FaultCase:
    name: str
    break_it: Break
    says: str = ""
    """A part of the message that an administrator reads."""
    concerns: Concerns = lambda before, mode: True
    families: tuple[str, ...] = (HOPPER, BLACKWELL)
    is_readable: bool = True
    """Whether the device can still be asked what is staged, once the change has failed."""
    can_be_mended: bool = True
    needs_reset: bool = False
    """Whether only a reset brings the device back, when what was wrong is right again."""


def mend(node: CcNode, address: PciAddress, *, reset: bool) -> None:
    """All is well with the device again; whatever it has staged stays."""
    device, kernel = node.devices[address], node.kernel.faults
    _set(device, Faults())
    device.at_reset.clear()
    device.look()
    device.knobs.update(dict.fromkeys({1, 3, 33, 5, 7, 9, 44}.intersection(device.knobs), 1))
    kernel.fail.pop((address, "reset"), None)
    kernel.bar0_open.pop(address, None)
    kernel.bar0_mmap.pop(address, None)
    node.kernel.set_lockdown("none")
    if reset:
        assert node.kernel.write(node.host_folder(address) / "reset", "1") == 0


def _set(device: EmulatedDevice, faults: Faults) -> None:
    for field in dataclasses.fields(Faults):
        setattr(device.faults, field.name, getattr(faults, field.name))


def now(**fields: object) -> Break:
    """From before the change on."""
    return lambda node, address: _set(node.devices[address], dataclasses.replace(Faults(), **fields))  # type: ignore[arg-type]  # by name


def errors(*made: Callable[[], FspError]) -> Break:
    """The same with errors of the FSP, which count for themselves."""
    return lambda node, address: _set(node.devices[address], Faults(fsp_errors=tuple(make() for make in made)))


def at_reset(**fields: object) -> Break:
    """From the reset that the change makes on."""

    def break_it(node: CcNode, address: PciAddress) -> None:
        device = node.devices[address]
        device.at_reset[device.resets + 1] = dataclasses.replace(Faults(), **fields)  # type: ignore[arg-type]  # by name

    return break_it


def at_one_reset(**fields: object) -> Break:
    """At the reset that the change makes, and at none after it."""

    def break_it(node: CcNode, address: PciAddress) -> None:
        at_reset(**fields)(node, address)
        device = node.devices[address]
        device.at_reset[device.resets + 2] = Faults()

    return break_it


def silent_from_request(number: int, *, for_ever: bool = True) -> Break:
    """The FSP falls silent at this request of the change: some knobs are staged, some not."""

    def break_it(node: CcNode, address: PciAddress) -> None:
        device = node.devices[address]
        first = len(device.requests) + number
        _set(device, Faults(fsp_silent_from=first, fsp_silent_to=None if for_ever else first))

    return break_it


def gone_at_access(number: int) -> Break:
    def break_it(node: CcNode, address: PciAddress) -> None:
        device = node.devices[address]
        _set(device, Faults(gone_at_access=device.accesses + number))

    return break_it


def one_reset_fails(number: int) -> Break:
    return lambda node, address: node.kernel.faults.fail_next.update({(address, "reset"): [number]})


def reset_fails(number: int) -> Break:
    return lambda node, address: node.kernel.faults.fail.update({(address, "reset"): number})


def bar0_fails(*, at_open: bool, number: int) -> Break:
    def break_it(node: CcNode, address: PciAddress) -> None:
        faults = node.kernel.faults
        (faults.bar0_open if at_open else faults.bar0_mmap)[address] = number

    return break_it


def knob(number: int, value: int) -> Break:
    return lambda node, address: node.devices[address].knobs.update({number: value})


def changes(modes: set[str]) -> Concerns:
    """A knob that is 1 in these modes is written."""
    return lambda before, mode: (before in modes) != (mode in modes)


def _mailbox(name: str, moment: MailboxMoment) -> FaultCase:
    return FaultCase(
        name,
        now(mailbox_error=moment),
        "reports an error",
        families=(BLACKWELL,),
        is_readable=False,
        needs_reset=True,
    )


FAILURES = (
    # the firmware
    FaultCase("its FSP is silent", now(fsp_is_silent=True), "did not answer within 5 s", is_readable=False),
    FaultCase("its FSP takes nothing", now(fsp_is_hung=True), "the FSP did not ", is_readable=False),
    *(
        FaultCase(
            f"its FSP falls silent at request {number}",
            silent_from_request(number),
            "did not answer within 5 s",
            families=(family,),
            is_readable=False,
        )
        for family, numbers in ((HOPPER, (3, 5, 7, 10, 13, 15, 17)), (BLACKWELL, (2, 4, 6, 7, 8)))
        for number in numbers
    ),
    FaultCase("its FSP refuses everything", errors(lambda: FspError(0x77)), "error 0x77", is_readable=False),
    *(
        FaultCase(
            f"its FSP refuses to write knob {number}",
            errors(lambda number=number: FspError(0x123, knob=number, is_write=True)),  # type: ignore[misc]  # bound now
            "error 0x123",
            concerns=changes(modes),
            families=families,
        )
        for number, modes, families in (
            (8, _CC, (HOPPER, BLACKWELL)),
            (6, _DEVTOOLS, (HOPPER, BLACKWELL)),
            (45, _PPCIE, (HOPPER,)),
        )
    ),
    *(
        FaultCase(
            f"the baseboard controller keeps knob {number + 1} to itself",
            knob(number, 0),
            "baseboard",
            concerns=changes(modes),
            families=families,
        )
        for number, modes, families in (
            (7, _CC, (HOPPER, BLACKWELL)),
            (5, _DEVTOOLS, (HOPPER, BLACKWELL)),
            (44, _PPCIE, (HOPPER,)),
        )
    ),
    FaultCase(
        "its firmware has no CC knob",
        errors(lambda: FspError(0x1E3, knob=8)),
        "update the device's firmware",
        is_readable=False,
    ),
    FaultCase(
        "its firmware is older than PPCIe",
        errors(lambda: FspError(0x1E3, knob=45), lambda: FspError(0x1E3, knob=44)),
        "update the device's firmware",
        concerns=lambda before, mode: mode == "ppcie",
        families=(HOPPER,),
    ),
    FaultCase(
        "its FSP answers something else", now(answer_instead=(WHOLE, READ_DONE, 0, 0x14, 0)), "0x14", is_readable=False
    ),
    FaultCase("its FSP answers too little", now(answer_instead=(WHOLE, READ_DONE)), "2 words", is_readable=False),
    FaultCase("its answers have no size", now(answer_size=0x80000), "makes no sense", is_readable=False),
    # the mailbox of Blackwell
    _mailbox("its mailbox has an error", MailboxMoment.IDLE),
    _mailbox("its mailbox has an error instead of credits", MailboxMoment.ANNOUNCED),
    _mailbox("its mailbox has an error after a message", MailboxMoment.SENT),
    _mailbox("its mailbox has an error instead of an answer", MailboxMoment.WAITING),
    _mailbox("its mailbox has an error beside an answer", MailboxMoment.ANSWERED),
    FaultCase(
        "its mailbox gives no credits",
        now(credits_end_after=0),
        "take more of a message",
        families=(BLACKWELL,),
        is_readable=False,
        needs_reset=True,
    ),
    FaultCase(
        "a killed tool left its mailbox dirty",
        now(left_in_queue=HALF_A_WRITE),
        "become ready",
        families=(BLACKWELL,),
        is_readable=False,
        needs_reset=True,
    ),
    # its boot
    FaultCase("its mode does not stick", at_reset(keeps_old_mode=True), "the mode register reads"),
    FaultCase(
        "its boot never completes", at_reset(boot_never_completes=True), "its boot is not complete", is_readable=False
    ),
    FaultCase(
        "its boot never completes but its FSP answers",
        at_reset(boot_never_completes=True, fsp_answers_while_booting=True),
        "its boot is not complete",
        is_readable=False,
    ),
    FaultCase(
        "its firewall stays up",
        at_reset(firewall_stays_up=True),
        "firewall",
        families=(BLACKWELL,),
        is_readable=False,
    ),
    FaultCase(
        "its registers stay out of reach",
        at_reset(bus_errors_never_end=True),
        "boot is not complete",
        families=(BLACKWELL,),
        is_readable=False,
    ),
    FaultCase(
        "its FSP is silent after the reset",
        at_reset(fsp_is_silent=True),
        "did not answer within 5 s",
        is_readable=False,
    ),
    # the whole device
    FaultCase("it is in recovery mode", now(is_in_recovery=True), "recovery mode", is_readable=False),
    FaultCase(
        "it is in recovery mode after the reset", at_reset(is_in_recovery=True), "recovery mode", is_readable=False
    ),
    FaultCase("it has a security fault", now(identity=0xBADF0200), "security fault", is_readable=False),
    FaultCase(
        "it has a security fault after the reset", at_reset(identity=0xBAD00200), "security fault", is_readable=False
    ),
    FaultCase("it is gone", now(gone_at_access=1), "the device left the bus", can_be_mended=False),
    FaultCase("it is lost at its reset", at_reset(gone_at_reset=True), "reset", can_be_mended=False),
    # the kernel
    FaultCase("its reset fails with ENOTTY", reset_fails(errno.ENOTTY), "Inappropriate ioctl for device"),
    FaultCase("its reset fails with ENODEV", reset_fails(errno.ENODEV), "No such device"),
    FaultCase(
        "opening its BAR0 fails with EPERM",
        bar0_fails(at_open=True, number=errno.EPERM),
        "forbids opening BAR0",
        is_readable=False,
    ),
    FaultCase(
        "mapping its BAR0 fails with EINVAL", bar0_fails(at_open=False, number=errno.EINVAL), "BAR0", is_readable=False
    ),
)

# What is tried again by itself (Settings.device_retries), and then goes well.
PASSING = (
    FaultCase("its mode does not stick at first", at_one_reset(keeps_old_mode=True)),
    FaultCase("one boot does not complete", at_one_reset(boot_never_completes=True)),
    FaultCase("its firewall stays up once", at_one_reset(firewall_stays_up=True), families=(BLACKWELL,)),
    FaultCase("its registers stay out of reach once", at_one_reset(bus_errors_never_end=True), families=(BLACKWELL,)),
    FaultCase("its FSP refuses one write", errors(lambda: FspError(0x123, is_write=True, times=1))),
    FaultCase("one answer is lost", silent_from_request(8, for_ever=False), families=(HOPPER,)),
    FaultCase("one answer is lost", silent_from_request(6, for_ever=False), families=(BLACKWELL,)),
    FaultCase("one reset fails with ENOTTY", one_reset_fails(errno.ENOTTY)),
)

HARMLESS = (
    FaultCase("a stale answer waits for it", now(stale_answer=STALE)),
    FaultCase("a killed tool left its queue dirty", now(left_in_queue=HALF_A_WRITE), families=(HOPPER,)),
    FaultCase("its FSP has no other task id than the last", errors()),
)
