"""`doctor` on the node itself: whether its devices can be brought to a mode; each check with what was found.

Nothing is woken, bound or reset. Registers of idle devices are read; their firmware is asked, which writes to a
mailbox, only while no other cc-manager is at work.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from cc_manager.gpu.access import Access
from cc_manager.host import has_tee
from cc_manager.lock import mode_lock
from cc_manager.observation import Observation
from cc_manager.observe import observe
from cc_manager.settings import LOCK_FILE
from nodelib.doctor import Check, check_iommu, failed, kernel_parameters, passed, warned
from nodelib.errors import NodeError
from nodelib.inventory import Inventory
from nodelib.node import Node
from nodelib.reading import names_in, start_of

_TEE_REMEDY = (
    "switch SEV-SNP or TDX on in the firmware, and in kvm_amd or kvm_intel; until then only mode off is of use"
)
_ASK_AGAIN = "ask again while a device is idle, awake and on a VFIO driver; `cc-manager run` wakes those that sleep"


def examine(node: Node, access: Access) -> tuple[tuple[Check, ...], tuple[Observation, ...]]:
    """Every check of the node itself, and the devices as they were seen."""
    inventory = node.scan()
    seen = observe(inventory, access, {}, boot_id="", wake=False, knobs=False)
    with ExitStack() as stack:
        daemon = _take_lock(node, stack)
        asked = seen
        if daemon is None:
            asked = observe(inventory, access, {}, boot_id="", wake=False, knobs=True)
        checks = tuple(_checks(node, inventory, seen, asked, daemon))
    return checks, asked


def _take_lock(node: Node, stack: ExitStack) -> str | None:
    """Keep every other cc-manager from beginning a change; why that cannot be, if it cannot."""
    try:
        stack.enter_context(mode_lock(node.host.resolve(LOCK_FILE)))
    except NodeError as error:
        return str(error)
    return None


def _checks(
    node: Node, inventory: Inventory, seen: Sequence[Observation], asked: Sequence[Observation], daemon: str | None
) -> Iterator[Check]:
    yield _tee(node)
    yield _lockdown(node.sysfs.lockdown())
    yield _iommu(node, inventory)
    yield _daemon(daemon)
    yield _devices(seen)
    if seen:
        yield _drivers(seen)
        yield _bar0(seen)
        yield _firmware(seen, asked, daemon)
        yield _busy(seen)
        yield _modes(asked)


# --- the host


def _tee(node: Node) -> Check:
    if has_tee(node.sysfs):
        return passed("tee", "the CPU protects virtual machines (SEV-SNP or TDX)")
    return warned("tee", "the CPU offers no confidential computing, or it is off", _TEE_REMEDY)


def _lockdown(mode: str | None) -> Check:
    if mode is None:
        return passed("lockdown", "none, or the kernel does not tell")
    remedy = "switch Secure Boot off in the firmware, or take lockdown= from the command line, while modes are changed"
    return failed("lockdown", f"{mode}: the kernel forbids mapping BAR0", remedy)


def _iommu(node: Node, inventory: Inventory) -> Check:
    parameters = kernel_parameters(start_of(node.host, "/proc/cmdline") or "")
    has_groups = any(not node.sysfs.iommu_group(number).is_noiommu for number in inventory.group_numbers)
    cpu = start_of(node.host, "/proc/cpuinfo") or ""
    return check_iommu(sorted(names_in(node.host, "/sys/class/iommu")), parameters, cpu, has_groups=has_groups)


def _daemon(why: str | None) -> Check:
    if why is None:
        return passed("lock", "no other cc-manager is at work")
    return passed("lock", "cc-manager runs here, or the lock cannot be had; the firmware was not asked")


# --- the devices


def _devices(seen: Sequence[Observation]) -> Check:
    if not seen:
        return warned("devices", "no NVIDIA GPU or NVSwitch on this node", "nothing is to be done without one")
    if unknown := [one for one in seen if one.part is None]:
        remedy = "update cc-manager; until then no mode is set on this node, for not all could be verified"
        return failed("devices", f"{len(unknown)} of {len(seen)} are not known: {_named(unknown)}", remedy)
    return passed("devices", f"{len(seen)}, all of a kind whose mode can be set")


def _drivers(seen: Sequence[Observation]) -> Check:
    if held := [one for one in seen if _is_held(one)]:
        return failed("driver", f"a driver of the host has {_named(held)}", "bind them: vfio-manager bind")
    return passed("driver", "every device is on a VFIO driver, or on none")


def _bar0(seen: Sequence[Observation]) -> Check:
    tried = [one for one in seen if one.part is not None and not one.in_use and not _is_held(one)]
    asleep = [one for one in tried if one.device.is_asleep]
    awake = [one for one in tried if not one.device.is_asleep]
    if broken := [one for one in awake if one.problem]:
        text = f"registers of {len(broken)} of {len(awake)} cannot be read: {broken[0].address}: {broken[0].problem}"
        return failed("bar0", text, "run as root with the host's /sys; a device that left the bus needs a power cycle")
    left = f"; {len(asleep)} asleep and not woken" if asleep else ""
    if not awake:
        return warned("bar0", f"no registers were read{left}", _ASK_AGAIN)
    return passed("bar0", f"registers of {len(awake)} idle devices can be read{left}")


def _is_held(one: Observation) -> bool:
    """Whether a driver of the host has the device."""
    return one.problem is not None and one.problem.code in ("not-bound", "no-iommu")


def _firmware(seen: Sequence[Observation], asked: Sequence[Observation], daemon: str | None) -> Check:
    if daemon is not None:
        text = "not asked, for that could disturb the cc-manager that runs"
        return warned("firmware", text, "see its metrics and its log, or stop it and ask again")
    readable = {one.address for one in seen if one.problem is None and not one.in_use}
    if not readable:
        return warned("firmware", "no device could be asked: in use, asleep or out of reach", _ASK_AGAIN)
    if silent := [one for one in asked if one.address in readable and one.problem]:
        text = f"{len(silent)} of {len(readable)} do not tell what is staged: {silent[0].address}: {silent[0].problem}"
        return failed("firmware", text, "until it answers, the mode of no device of this node is changed")
    return passed("firmware", f"answers for {len(readable)} devices")


def _busy(seen: Sequence[Observation]) -> Check:
    if busy := [one for one in seen if one.in_use]:
        remedy = "a change of mode waits for them; --when-busy says what else it may do"
        return warned("busy", f"a virtual machine has {_named(busy)}", remedy)
    return passed("busy", "no device is in use")


def _modes(asked: Sequence[Observation]) -> Check:
    if staged := [one for one in asked if one.is_left_staged]:
        remedy = "let `cc-manager run` mend it, or run: cc-manager set MODE"
        return warned("staged", f"the next reset changes the mode of {_named(staged)}", remedy)
    modes = sorted({str(one.active) for one in asked if one.active is not None})
    if not modes:
        return warned("staged", "not known: no device could be asked", _ASK_AGAIN)
    return passed("staged", f"nothing is left staged; modes in force: {', '.join(modes)}")


def _named(observations: Sequence[Observation], most: int = 3) -> str:
    shown = ", ".join(str(one.address) for one in observations[:most])
    return shown if len(observations) <= most else f"{shown} and {len(observations) - most} more"
