"""What the node's labels and annotations say, and what we have them say. Pure.

Keys and values: facts/labels-and-settings.md; they are shared with manifests and tools in the field.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from types import MappingProxyType

from cc_manager.mode import CcMode, parse_mode
from cc_manager.observation import Observation, Verified
from nodelib.errors import InvalidValue
from nodelib.pci import PciAddress

MODE = "nvidia.com/cc.mode"
"""Label, written by administrators: the mode that the node shall be in, `off`, `on`, `devtools` or `ppcie`."""
STATE = "nvidia.com/cc.mode.state"
"""Label: the mode that was last verified on every device, or `failed`."""
READY = "nvidia.com/cc.ready.state"
"""Label: `true` for verified `on` or `ppcie`, `false` for verified `off`, empty at any other time."""
MESSAGE = "nvidia.com/cc.mode.message"
"""Annotation: one sentence on what was reached, what is awaited, or why it failed."""
DEVICES = "nvidia.com/cc.mode.devices"
"""Annotation, JSON: each device's verified mode, with the time and the boot in which it was verified."""
FAILED = "failed"
NOTHING_ELSE: Mapping[PciAddress, str] = MappingProxyType({})

FORGOTTEN: Mapping[str, object] = MappingProxyType(
    {"metadata": {"labels": {STATE: None, READY: None}, "annotations": {MESSAGE: None, DEVICES: None}}}
)
"""The merge patch that takes from a node all that we publish."""
_CHANGING = "changing "
_READY_VALUES = {CcMode.ON: "true", CcMode.PPCIE: "true", CcMode.OFF: "false", CcMode.DEVTOOLS: ""}
"""Both `true` and `false` mean "verified"; devtools is for nobody's workload."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """The node's metadata as it was read."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    version: str = field(default="", compare=False)
    """The API server's name for exactly this state of the node."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What the node is to say about its mode; None leaves a key as it is."""

    state: str | None
    ready: str
    message: str
    devices: str | None = None

    def patch(self, seen: NodeView) -> dict[str, object] | None:
        """The merge patch that makes it so, None if the node says it already."""
        labels = {STATE: self.state, READY: self.ready}
        annotations = {MESSAGE: self.message, DEVICES: self.devices}
        changed = {key: value for key, value in labels.items() if value is not None and seen.labels.get(key) != value}
        notes = {key: v for key, v in annotations.items() if v is not None and seen.annotations.get(key) != v}
        metadata = {name: part for name, part in (("labels", changed), ("annotations", notes)) if part}
        return {"metadata": metadata} if metadata else None


def desired_mode(labels: Mapping[str, str], default: CcMode, *, host_capable: bool) -> CcMode:
    """The mode that the label asks for; without one the default, which is `off` where the CPU has no TEE.

    Raises InvalidValue for a value that is no mode.
    """
    text = labels.get(MODE, "")
    if not text:
        return default if host_capable else CcMode.OFF
    try:
        return parse_mode(text)
    except InvalidValue as error:
        raise InvalidValue(f"label {MODE}: {error}") from error


def succeeded(mode: CcMode, devices: str, count: int) -> Publication:
    """Every device was verified in *mode*."""
    return Publication(
        mode.value, _READY_VALUES[mode], f"{count} device{'' if count == 1 else 's'} verified in mode {mode}", devices
    )


def changing(mode: CcMode, devices: str) -> Publication:
    """A change begins: nothing may be scheduled from here on. Never `false`, which attracts plain Kata pods.

    *devices* tells nothing of those that change: if we die on the way, nobody may believe what they were before.
    """
    return Publication(None, "", f"{_CHANGING}to mode {mode}", devices)


def putting_back(devices: str) -> Publication:
    """Knobs that an earlier change, or somebody else, left staged are put back to the mode in force."""
    return Publication(None, "", f"{_CHANGING}staged knobs back to the mode in force", devices)


def is_changing(annotations: Mapping[str, str]) -> bool:
    """Whether a change was begun of which nobody has told the end."""
    return annotations.get(MESSAGE, "").startswith(_CHANGING)


def drifted(reason: str, devices: str) -> Publication:
    """A device is in another mode than the node was told to be in, and is left so."""
    return Publication(None, "", f"drift: {reason}", devices)


def waiting(mode: CcMode, reason: str, devices: str) -> Publication:
    """The change waits; the last verified mode stays published."""
    return Publication(None, "", f"waiting to change to mode {mode}: {reason}", devices)


def nothing_there() -> Publication:
    """The node has no device whose mode could be told; the last verified mode stays published."""
    return Publication(None, "", "no NVIDIA GPU on this node")


def failed(reason: str, devices: str | None = None) -> Publication:
    """The node is not in the mode that it should be in."""
    return Publication(FAILED, "", reason, devices)


def format_devices(
    observations: Iterable[Observation],
    known: Mapping[PciAddress, Verified],
    *,
    boot_id: str,
    now: str,
    without_mode: Mapping[PciAddress, str] = NOTHING_ELSE,
) -> str:
    """The devices annotation: each device's mode and when it was verified, or why it is in none.

    An entry that still holds keeps its time. A device that its next reset would change is in no mode: the VM that opens
    it causes that reset. *without_mode* are further devices and why they are in none; they are in the annotation for
    their absence to be noticed.
    """
    entries: dict[str, dict[str, str]] = {}
    for one in observations:
        entries[str(one.address)] = _entry(one, known.get(one.address), boot_id, now)
    for address, reason in without_mode.items():
        entries[str(address)] = {"mode": "", "boot_id": boot_id, "reason": reason}
    return json.dumps(entries, sort_keys=True, separators=(",", ":"))


def _entry(one: Observation, before: Verified | None, boot_id: str, now: str) -> dict[str, str]:
    if one.active is None or one.active.mode is None or one.is_left_staged:
        return {"mode": "", "boot_id": boot_id, "reason": _why_in_no_mode(one)}
    entry = Verified(one.active.mode, now, boot_id)
    if before is not None and (before.mode, before.boot_id) == (entry.mode, entry.boot_id):
        entry = before
    return {key: str(value) for key, value in asdict(entry).items()}


def _why_in_no_mode(one: Observation) -> str:
    if one.problem is not None:
        return one.problem.text
    if one.in_use:
        return "it is in use and was not verified since the node booted"
    return f"it is in {one.active}, and {one.staged_text} is staged"


def devices_of_this_boot(text: str | None, boot_id: str) -> frozenset[PciAddress]:
    """The devices that the annotation knows from this boot, verified or not."""
    return frozenset(address for address, entry in _entries(text) if entry.get("boot_id") == boot_id)


def has_unverified(text: str | None, boot_id: str) -> bool:
    """Whether the annotation knows a device of this boot that was left in no mode: a change of it did not end well."""
    return not devices_of_this_boot(text, boot_id) <= parse_verified(text).keys()


def parse_verified(text: str | None) -> dict[PciAddress, Verified]:
    """The verified devices of the annotation; whatever in it makes no sense counts as not there."""
    found: dict[PciAddress, Verified] = {}
    for address, entry in _entries(text):
        with suppress(KeyError, TypeError, InvalidValue):
            found[address] = Verified(parse_mode(entry["mode"]), str(entry["time"]), str(entry["boot_id"]))
    return found


def _entries(text: str | None) -> Iterator[tuple[PciAddress, dict[str, str]]]:
    try:
        entries = json.loads(text or "{}")
    except ValueError:
        return
    for address, entry in entries.items() if isinstance(entries, dict) else ():
        if isinstance(entry, dict):
            with suppress(ValueError):
                yield PciAddress.parse(address), entry
