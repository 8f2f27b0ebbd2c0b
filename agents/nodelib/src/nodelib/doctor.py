"""What every agent's `doctor` shares: checks as values, how they are shown, and readings of what a kernel says."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from nodelib.output import Record, Report

COLUMNS = {"result": "RESULT", "check": "CHECK", "found": "FOUND"}
Parameters = tuple[tuple[str, str], ...]
"""Of the kernel's command line: names and values, in order."""
PRESENT = ("loaded", "built in")
"""States of a kernel module that is there; the others are `loadable`, `unknown` and `absent`."""
_IOMMU_KINDS = {"dmar": "Intel VT-d", "ivhd": "AMD-Vi", "smmu3": "Arm SMMUv3", "smmu": "Arm SMMU", "virtio": "virtio"}
_PARAMETERS = ("iommu", "intel_iommu", "amd_iommu", "iommu.passthrough", "module_blacklist", "modprobe.blacklist")
_WORD = re.compile(r'(?:[^\s"]|"[^"]*"?)+')


class Outcome(Enum):
    """What a check came to."""

    PASS = "pass"  # noqa: S105 - no password
    WARN = "warn"  # it can work, or nobody can tell from here
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must be right on the node, and what was found."""

    name: str
    """Short and stable, for scripts: `vfio-modules`."""
    outcome: Outcome
    text: str
    """What was found, as one clause; the first words tell, for a table may cut the rest."""
    remedy: str = ""
    """What to do, as an instruction; never empty but for a pass."""


def passed(name: str, text: str) -> Check:
    return Check(name, Outcome.PASS, text)


def warned(name: str, text: str, remedy: str) -> Check:
    return Check(name, Outcome.WARN, text, remedy)


def failed(name: str, text: str, remedy: str) -> Check:
    return Check(name, Outcome.FAIL, text, remedy)


def exit_code(checks: Iterable[Check]) -> int:
    """1 if a check failed, else 0: a node with warnings can work."""
    return int(any(check.outcome is Outcome.FAIL for check in checks))


def report(checks: Sequence[Check]) -> Report:
    """The checks in their order; below them what is wrong and what to do, failures first."""
    rows: tuple[Record, ...] = tuple(
        {"check": check.name, "result": check.outcome.value, "found": check.text, "remedy": check.remedy}
        for check in checks
    )
    notes = [_summary(checks)]
    for outcome in (Outcome.FAIL, Outcome.WARN):
        notes += [
            f"{outcome.value} {check.name}: {check.text}; {check.remedy}"
            for check in checks
            if check.outcome is outcome
        ]
    return Report(rows, COLUMNS, tuple(notes), empty="nothing was checked")


def _summary(checks: Sequence[Check]) -> str:
    fails, warnings = (sum(check.outcome is outcome for check in checks) for outcome in (Outcome.FAIL, Outcome.WARN))
    counted = f"{_count(len(checks), 'check')}, {fails or 'none'} failed, {_count(warnings, 'warning')}"
    return f"this node {'cannot work yet' if fails else 'can work'}: {counted}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


# --- what a kernel says


def legible(text: str, limit: int = 60) -> str:
    """*text* from a file fit for a terminal: printable ASCII, not longer than *limit*."""
    plain = "".join(character if character.isascii() and character.isprintable() else "?" for character in text)
    return plain if len(plain) <= limit else f"{plain[: limit - 2]}.."


def kernel_parameters(command_line: str) -> Parameters:
    """The parameters in /proc/cmdline by name and value, in order; names with `_`, as the kernel takes `-` for `_`.

    Spaces within double quotes do not divide, and what follows `--` is for init (Linux, kernel/params.c, parse_args).
    """
    found = []
    for word in _WORD.findall(command_line):
        if word == "--":
            break
        name, _, value = word.replace('"', "").partition("=")
        found.append((name.replace("-", "_"), value))
    return tuple(found)


def off_switches(parameters: Parameters) -> tuple[str, ...]:
    """Those that switch an IOMMU off (Linux, Documentation/admin-guide/kernel-parameters.txt)."""
    names = ("iommu", "intel_iommu", "amd_iommu")
    return tuple(f"{name}={value}" for name, value in parameters if name in names and "off" in value.split(","))


def iommu_kinds(names: Iterable[str]) -> tuple[str, ...]:
    """What the IOMMUs in /sys/class/iommu are.

    Names: Linux, drivers/iommu/intel/dmar.c, amd/init.c, arm/arm-smmu-v3/arm-smmu-v3.c, virtio-iommu.c.
    """
    prefixes = sorted(_IOMMU_KINDS, key=len, reverse=True)
    kinds = (next((_IOMMU_KINDS[prefix] for prefix in prefixes if name.startswith(prefix)), name) for name in names)
    return tuple(sorted({legible(kind, 20) for kind in kinds}))


def remaps_interrupts(chips: Iterable[str]) -> bool | None:
    """Whether a device's interrupts are checked, by the names in /sys/kernel/irq/*/chip_name; None: they do not tell.

    On x86 the chips of remapped interrupts are `IR-...` (Linux, drivers/iommu/intel/irq_remapping.c, amd/iommu.c); an
    Arm translation service (`ITS-...`) isolates by itself (drivers/irqchip/irq-gic-v3-its.c).
    """
    is_remapped = None
    for name in chips:
        if name.startswith(("IR-", "ITS-")):
            return True
        if name.startswith(("IO-APIC", "PCI-MSI")):
            is_remapped = False
    return is_remapped


# --- checks that agents share


def check_iommu(names: Sequence[str], parameters: Parameters, cpu: str, *, has_groups: bool) -> Check:
    """*names* are those in /sys/class/iommu, *cpu* is the start of /proc/cpuinfo, *has_groups* that real ones exist."""
    if names:
        return passed("iommu", f"{' and '.join(iommu_kinds(names))} is on, {_count(len(names), 'unit')}")
    if has_groups:
        text = "on, for there are groups; its kind is not in /sys/class/iommu"
        return warned("iommu", text, "if VMs do not start, look for the IOMMU in the kernel log")
    if off := off_switches(parameters):
        remedy = f"take {legible(' '.join(off))} out of the kernel's command line and reboot"
    elif "hypervisor" in cpu.split():
        remedy = "this is a virtual machine: give it a virtual IOMMU, or hand out the GPUs on its host"
    elif "GenuineIntel" in cpu:
        remedy = "switch VT-d on in the firmware and boot with intel_iommu=on"
    else:  # the others are on by default where the firmware offers them
        remedy = f"switch the IOMMU{' (AMD-Vi)' if 'AuthenticAMD' in cpu else ''} on in the firmware and reboot"
    return failed("iommu", "off or not there: VFIO drivers refuse every device", remedy)


def check_interrupts(chips: Iterable[str], *, are_unsafe_allowed: bool) -> Check:
    """Without remapping VFIO refuses: Linux, drivers/vfio/vfio_iommu_type1.c, vfio_iommu_type1_attach_group."""
    firmware = "switch interrupt remapping on in the firmware; boot without nointremap and intremap=off"
    match remaps_interrupts(chips), are_unsafe_allowed:
        case None, _:
            text = "unknown: /sys/kernel/irq does not tell if remapped"
            return warned("interrupts", text, "look for `DMAR-IR` or `Interrupt remapping enabled` in the kernel log")
        case True, False:
            return passed("interrupts", "remapped")
        case True, True:
            return warned("interrupts", "remapped, but allow_unsafe_interrupts is set", "take it out: nothing needs it")
        case False, True:
            return warned("interrupts", "not remapped, yet allowed: a VM can forge the host's", firmware)
        case _:
            return failed("interrupts", "not remapped: VFIO refuses to start a VM (EPERM)", firmware)


def check_command_line(parameters: Parameters | None, modules: Mapping[str, str], *, has_iommu: bool) -> Check:
    """*modules* are those that are needed, by name (spelt with `_`), with their states."""
    if parameters is None:
        return warned("command-line", "/proc/cmdline cannot be read", "mount the host's /proc under --host-root")
    if not has_iommu and (off := off_switches(parameters)):
        return failed("command-line", f"switches the IOMMU off: {legible(' '.join(off))}", "take that out and reboot")
    refused = {part for name, value in parameters if name == "module_blacklist" for part in value.split(",")}
    blocked = sorted(name for name, state in modules.items() if name in refused and state not in PRESENT)
    if blocked:
        text = f"module_blacklist keeps {', '.join(blocked)} from being loaded"
        return failed("command-line", text, "take that out and reboot")
    said = [f"{n}={v}" for n, v in parameters if n in _PARAMETERS or n.startswith("vfio")]
    return passed("command-line", legible(" ".join(said), 300) or "nothing on IOMMU and VFIO: the kernel's defaults")


def check_group_types(iommus: Sequence[str], types: Mapping[int, str | None]) -> Check:
    """What the host's own drivers get; VFIO puts the VM's domain in its place."""
    found = ", ".join(sorted({legible(text, 20) for text in types.values() if text})) or "unknown on this kernel"
    for number, text in types.items():
        if text not in (None, "DMA", "DMA-FQ", "identity"):
            remedy = f"look at /sys/kernel/iommu_groups/{number}/type and at the kernel log"
            return warned("group-type", f"unexpected: {found}", remedy)
    if "identity" in types.values() and "AMD-Vi" in iommu_kinds(iommus):
        # Linux, drivers/iommu/amd/init.c, iommu_snp_enable: no SEV-SNP where passthrough is the default.
        text = "identity (passthrough); by default like that, SEV-SNP is off"
        return warned("group-type", text, "for SEV-SNP boot without iommu=pt, or with iommu.passthrough=0")
    return passed("group-type", found)


def check_noiommu_mode(*, is_on: bool, has_groups: bool) -> Check:
    if not is_on:
        return passed("no-iommu-mode", "off")
    remedy = "take enable_unsafe_noiommu_mode from vfio's options and from the command line"
    if has_groups:
        return warned("no-iommu-mode", "on: a device without IOMMU would be handed out unprotected", remedy)
    return failed("no-iommu-mode", "on: no device is isolated, a VM reaches all memory", remedy)


def check_vfio_modules(modules: Mapping[str, str]) -> Check:
    """*modules*: the states of `vfio`, `vfio_pci` and both back ends, of which one is enough.

    What is loadable comes with the VFIO driver, by dependency; a back end comes only when `vfio` itself is loaded
    (MODULE_SOFTDEP in Linux, drivers/vfio/vfio_main.c).
    """
    order = (*PRESENT, "loadable", "unknown", "absent")
    backend = min(("vfio_iommu_type1", "iommufd"), key=lambda name: order.index(modules[name]))
    states = {name: modules[name] for name in ("vfio", "vfio_pci", backend)}
    text = ", ".join(f"{name} {state}" for name, state in states.items())
    if absent := " ".join(name for name, state in states.items() if state == "absent"):
        return failed("vfio-modules", text, f"install the package that has {absent} for the running kernel")
    if "unknown" in states.values():
        return warned("vfio-modules", text, "mount the host's /lib/modules under --host-root, to know them all")
    if states["vfio"] in PRESENT and states[backend] not in PRESENT:
        return warned("vfio-modules", text, f"run: modprobe {backend}")
    return passed("vfio-modules", text)
