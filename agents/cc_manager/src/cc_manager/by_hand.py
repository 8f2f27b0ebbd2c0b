"""A change of mode by hand: without a node object, with somebody who watches and may change his mind."""

import logging
import queue
import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial

import click

from cc_manager.by_hand_marker import leave_marker
from cc_manager.lock import mode_lock
from cc_manager.mode import CcMode
from cc_manager.observation import Observation
from cc_manager.setter import ModeSetter, Outcome, left_during
from cc_manager.settings import LOCK_FILE
from nodelib.errors import InvalidValue, NodeError, NotSupported
from nodelib.inventory import Inventory
from nodelib.nvidia import is_assignable_kind
from nodelib.pci import PciAddress
from nodelib.wakeups import Wakeups

log = logging.getLogger(__name__)

BUSY_POLL_S = 2.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""SIGHUP too: a connection that is lost must not leave knobs staged."""


def chosen(inventory: Inventory, devices: Collection[PciAddress]) -> frozenset[PciAddress] | None:
    """The devices that were named, None for all of them. Raises InvalidValue for what is no GPU or NVSwitch here."""
    here = {device.address for device in inventory.devices if is_assignable_kind(device)}
    for address in devices:
        if address not in here:
            raise InvalidValue(f"--device {address}: no GPU or NVSwitch of this node has that address; see `status`")
    return frozenset(devices) or None


def set_by_hand(setter: ModeSetter, mode: CcMode, devices: Collection[PciAddress]) -> Outcome:
    """Bring the devices to *mode*; where they are in use, wait for their end if that is the policy.

    Ctrl-C, SIGTERM and SIGHUP end it with the staged knobs put back. The lock is held while something is done, not
    while it waits. Raises NodeError, or NotSupported on a node without any device.
    """
    stop = setter.wakeups.stop
    known: dict[PciAddress, Observation] = {}
    mark = partial(leave_marker, setter.node.host)
    with _stopping(setter.wakeups, mode):
        while True:
            with mode_lock(setter.node.host.resolve(LOCK_FILE)):
                outcome = setter.set(mode, chosen(setter.node.scan(), devices), mark)
            known |= {one.address: one for one in outcome.observations}
            if gone := left_during(known.values(), outcome.observations):
                return replace(outcome, waits=False, reasons=tuple({*outcome.reasons, *map(str, gone)}))
            if not outcome.observations:
                raise NotSupported("no NVIDIA GPU on this node")
            if not outcome.waits or stop.is_set():
                return outcome
            log.info("waiting: %s", "; ".join(outcome.reasons))
            stop.wait(BUSY_POLL_S)
            if stop.is_set():
                raise NodeError(f"stopped while waiting ({'; '.join(outcome.reasons)}); nothing was changed")


def raise_unless_done(outcome: Outcome, *, was_stopped: bool) -> None:
    """Raise NodeError or NotSupported with what is not as it should be, device by device."""
    if outcome.ok:
        return
    head = f"the devices are not all in mode {outcome.mode}:"
    lines = [head, *outcome.reasons]
    if was_stopped:
        lines = [f"stopped; {what_is_left(outcome.observations)}"]
    unsupported = all(one.problem and one.problem.code == "unsupported" for one in outcome.observations)
    raise (NotSupported if unsupported else NodeError)("\n".join(lines))


def what_is_left(observations: Collection[Observation]) -> str:
    """In which modes the devices are after a change that was cut short, and whose next reset would change that."""
    by_mode: dict[str, list[str]] = {}
    for one in observations:
        by_mode.setdefault(str(one.active or "unknown"), []).append(str(one.address))
    modes = "; ".join(f"in mode {mode}: {', '.join(addresses)}" for mode, addresses in sorted(by_mode.items()))
    unsure = [str(one.address) for one in observations if one.is_left_staged or one.staged is None]
    if not unsure:
        return f"{modes}; no reset will change that"
    return f"{modes}; the next reset may change {', '.join(unsure)}: see `status --knobs`, or set a mode again"


@contextmanager
def _stopping(wakeups: Wakeups, mode: CcMode) -> Iterator[None]:
    """Let a first signal ask to stop and a second one end at once; for the main thread, which alone gets signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # As in nodelib.wakeups: a handler may interrupt its thread while that holds the event's own lock.
    asked: queue.SimpleQueue[int] = queue.SimpleQueue()
    received: list[int] = []

    def on_signal(number: int, _frame: object) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt
        asked.put(number)

    def pass_on() -> None:
        if asked.get():
            wakeups.request_stop()
            with suppress(OSError):  # of a terminal that is gone
                click.echo("stopping: what is staged is put back; once more ends at once", err=True)

    before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    threading.Thread(target=pass_on, name="stop", daemon=True).start()
    try:
        yield
    except KeyboardInterrupt:
        raise NodeError(
            f"ended at once: mode {mode} may be staged on some devices, whose next reset would put it in force; "
            "see `status --knobs`, or set a mode again"
        ) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        asked.put(0)
