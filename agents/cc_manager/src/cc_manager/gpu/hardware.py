"""One device whose mode can be set: look at it, stage a mode in its firmware, wait for its boot, verify.

Resets, power and PCI configuration are not done here: they go through sysfs.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress

from cc_manager.clock import Clock
from cc_manager.errors import BusError, FaultyDevice, FirmwareError, NotAllowedInBand, NotBooted, UnsupportedDevice
from cc_manager.gpu.chips import BOOT_COMPLETE, IDENTITY, SECURITY_FAULTS, Mailbox, Part
from cc_manager.gpu.emem import Emem
from cc_manager.gpu.knobs import (
    PERMISSION_OF,
    Knob,
    KnobWrite,
    Targets,
    forbidden_writes,
    knob_writes,
    knobs_to_read,
    missing_knobs,
    permissions_to_read,
    staged_mode,
)
from cc_manager.gpu.mnoc import Mnoc
from cc_manager.gpu.prc import Prc, Transport, no_such_knob
from cc_manager.gpu.registers import CheckedRegisters, Registers, is_bus_error
from cc_manager.mode import CcMode, ModeBits
from nodelib.pci import PciAddress

BOOT_POLL_S = 0.010


class Device:
    """The device at *address*, a *part*, behind *registers*; for one thread.

    `identify`, `is_booted`, `active_mode` and `verify` only read. Whatever talks to the firmware writes registers, if
    only to ask: never on a device in use. Every method may raise DeviceGone, BusError or FaultyDevice.
    """

    def __init__(
        self,
        address: PciAddress,
        part: Part,
        registers: Registers,
        clock: Clock | None = None,
        fault_code: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.address = address
        self.part = part
        self._clock = clock or Clock()
        self._fault_code = fault_code
        """Reads the code of a security fault, which is in configuration space."""
        self._registers = CheckedRegisters(address, registers)
        self._transport = _transport(part.mailbox, self._registers, self._clock)
        self._prc = Prc(address, self._transport)
        self._is_prepared = False
        self._owes_a_look = False
        """Whether the signs of a fault could not be read when the device was prepared."""

    # --- only reads

    def identify(self) -> int:
        """The identity register. Raises FaultyDevice, UnsupportedDevice for another chip than the part's, or NotBooted.

        NotBooted where the part's boot keeps even its identity out of reach.
        """
        identity = self._registers.read_marker32(IDENTITY)
        if identity in SECURITY_FAULTS:
            raise self._security_fault(identity)
        if is_bus_error(identity):
            if self.part.has_firewall and not self.is_booted():
                raise self._not_booted("tell who it is")
            raise self._registers.bus_error(IDENTITY, identity)
        if identity == 0 and self.part.zero_identity_is_recovery:
            raise self._in_recovery("its identity reads 0")
        if self.part.identity not in (None, identity):
            raise UnsupportedDevice(
                self.address, f"it is not {self.part.name} (identity {identity:#010x}); nothing is written to it"
            )
        return identity

    def is_booted(self) -> bool:
        """Whether the boot is complete; an error marker of the internal bus means "not yet"."""
        return self._registers.read_marker32(self.part.boot_complete) == BOOT_COMPLETE

    def wait_for_boot(self, timeout_s: float | None = None) -> None:
        """Wait, after `prepare` where the device was reset. Raises NotBooted after *timeout_s* (None: the part's)."""
        limit_s = self.part.boot_timeout_s if timeout_s is None else timeout_s
        if not self._clock.wait_until(self.is_booted, limit_s, BOOT_POLL_S):
            self._refuse_faulty()  # a fault says more than a boot that does not end
            raise self._not_booted("bring it up", f" after {limit_s:g} s")
        if self._owes_a_look:
            self._refuse_faulty()

    def active_mode(self) -> ModeBits:
        """The mode in force since the last reset. Raises NotBooted: until then the register reads 0, which is `off`."""
        self.identify()  # another generation of switch has other things at these offsets
        if not self.is_booted():
            raise self._not_booted("read its active mode")
        return self.part.mode_bits({offset: self._registers.read32(offset) for offset in self.part.mode_registers})

    def is_decoupled(self) -> bool | None:
        """Whether BAR0 is closed to the host but for a few registers; None where the part does not tell."""
        field = self.part.decoupler
        return None if field is None else bool(field.of(self._registers.read32(field.offset)))

    def verify(self, mode: CcMode) -> ModeBits:
        """The active mode, which must be what a device of this part shows on a node in *mode*."""
        active = self.active_mode()
        if active.mode is not (wanted := self.part.shown_mode(mode)):
            raise FirmwareError(self.address, f"set mode {wanted}", f"the mode register reads {active}")
        return active

    # --- writes registers

    def prepare(self) -> None:
        """Make the device ready to be asked: once after opening, and after every reset, before waiting for its boot."""
        self._refuse_faulty()
        for offset, value in self.part.bus_setup:
            self._registers.write32(offset, value)
        self._transport.close()
        self._is_prepared = True

    def read_knobs(self, knobs: Iterable[Knob] = tuple(Knob)) -> dict[Knob, int | None]:
        """The staged values of *knobs*, None for those that the firmware does not have."""
        self._reach_firmware()
        return self._read(knobs)

    def staged_mode(self) -> ModeBits:
        """The mode that the next reset will put in force, whoever causes it."""
        values = self.read_knobs(self.part.staged_knobs)
        for knob, value in values.items():
            if value is None and knob is not Knob.PPCIE:
                raise no_such_knob(self.address, f"read {knob.text}")
        return staged_mode(values)

    def check(self, mode: CcMode) -> None:
        """Raise what `stage` would before its first write: a missing knob or permission, a silent firmware."""
        targets = self.part.targets(self.address, mode)
        self._reach_firmware()
        self._writes_for(targets)

    def staged_decoupler(self) -> int | None:
        """The decoupler's knob as staged; None: the part's modes do not touch it, or the firmware does not have it."""
        if self.part.decoupler_knob(CcMode.OFF) is None:
            return None
        return self.read_knobs((Knob.DECOUPLER,))[Knob.DECOUPLER]

    def stage(self, mode: CcMode) -> Targets:
        """Have the firmware put *mode* in force at the next reset; the knobs that were changed for it.

        Nothing is written unless all of it may be, and every knob written is read back. After an error some may be
        staged: `restore_staged` before anybody else can cause a reset.
        """
        targets = self.part.targets(self.address, mode)
        self._reach_firmware()
        writes = self._writes_for(targets)
        for write in writes:
            self._prc.write_knob(write)
        staged = self._read(write.knob for write in writes)
        for write in writes:
            if staged[write.knob] != write.value:
                raise FirmwareError(self.address, str(write), f"it reads {staged[write.knob]} afterwards")
        return writes

    def restore_staged(self, active: ModeBits) -> Targets:
        """Put the knobs back to the *active* mode, so that no reset (VFIO does one at each open) changes it.

        An invalid active state is never staged again: such a device is left with `off` staged.
        """
        return self.stage(active.mode or CcMode.OFF)

    # --- how

    def _reach_firmware(self) -> None:
        """Bring the device to where its firmware can be asked, and where that is allowed."""
        if self._is_prepared:
            self._refuse_faulty()
        else:
            self.prepare()
        try:
            self.wait_for_boot()
        except NotBooted:
            # The FSP boots first and may still answer, which is enough to mend a setting that spoils the boot.
            try:
                self._prc.read_knob(Knob.CC)
            except (FirmwareError, BusError) as silent:
                raise self._not_booted("reach its firmware", f", and {silent.why}") from silent

    def _writes_for(self, targets: Targets) -> Targets:
        """The writes that *targets* need, once it is known that all of them can be done."""
        current = self._read(knobs_to_read(targets))
        if missing := missing_knobs(targets, current):
            raise no_such_knob(self.address, f"set {missing[0].text}")
        writes = knob_writes(targets, current)
        if forbidden := forbidden_writes(writes, self._read(permissions_to_read(writes))):
            raise self._not_allowed(forbidden[0])
        return writes

    def _read(self, knobs: Iterable[Knob]) -> dict[Knob, int | None]:
        return {knob: self._prc.read_knob(knob) for knob in knobs}

    def _refuse_faulty(self) -> None:
        """Raise FaultyDevice where a sign of a fault can be read; `wait_for_boot` looks again for those that cannot."""
        self._owes_a_look = True
        with suppress(NotBooted):
            self.identify()
            word = self._registers.read_marker32(self.part.recovery.offset)
            # Until the internal bus is set up the flag may be out of reach: then only the identity speaks.
            if is_bus_error(word):
                return
            if self.part.is_in_recovery(word):
                raise self._in_recovery(f"register {self.part.recovery.offset:#x} reads {word:#010x}")
            self._owes_a_look = False

    def _security_fault(self, identity: int) -> FaultyDevice:
        code, place = self._fault_code(), self.part.security_fault_code
        told = f", code {code:#010x}" if code is not None else f", its code is at {place}" if place else ""
        return FaultyDevice(
            self.address,
            f"it has a security fault (identity reads {identity:#010x}{told}); nothing is written to it: power-cycle "
            "the node, and have the device replaced if the fault stays",
        )

    def _in_recovery(self, sign: str) -> FaultyDevice:
        return FaultyDevice(
            self.address,
            f"it is in recovery mode ({sign}); nothing is written to it: restore its firmware or power-cycle the node",
        )

    def _not_booted(self, asked: str, more: str = "") -> NotBooted:
        offset = self.part.boot_complete
        word = self._registers.read_marker32(offset)
        return NotBooted(
            self.address,
            asked,
            f"its boot is not complete{more} (register {offset:#x} reads {word:#x} and not {BOOT_COMPLETE:#x})",
            remedy="reset the device, or power-cycle the node if that does not help",
        )

    def _not_allowed(self, write: KnobWrite) -> NotAllowedInBand:
        return NotAllowedInBand(
            self.address,
            str(write),
            f"the host may not change it ({PERMISSION_OF[write.knob].text} is 0)",
            remedy="only the baseboard controller (BMC) can: set it there, or allow it in band there",
        )


def _transport(mailbox: Mailbox, registers: CheckedRegisters, clock: Clock) -> Transport:
    return Mnoc(registers, clock) if mailbox is Mailbox.MNOC else Emem(registers, clock)
