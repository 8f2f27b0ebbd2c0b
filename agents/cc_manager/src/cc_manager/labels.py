"""What the node's labels and annotations say, and what we have them say. Pure.

Keys and values: facts/labels-and-settings.md; they are shared with manifests and tools in the field.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

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

_READY_VALUES = {CcMode.ON: "true", CcMode.PPCIE: "true", CcMode.OFF: "false", CcMode.DEVTOOLS: ""}
"""Both `true` and `false` mean "verified"; devtools is for nobody's workload."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """The node's metadata as it was read."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]


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
    return Publication(mode.value, _READY_VALUES[mode], f"{count} devices verified in mode {mode}", devices)


def changing(mode: CcMode, devices: str) -> Publication:
    """A change begins: nothing may be scheduled from here on. Never `false`, which attracts plain Kata pods.

    *devices* leaves out those that change: if we die on the way, nobody may believe what they were before.
    """
    return Publication(None, "", f"changing to mode {mode}", devices)


def waiting(mode: CcMode, reason: str, devices: str) -> Publication:
    """The change waits; the last verified mode stays published."""
    return Publication(None, "", f"waiting to change to mode {mode}: {reason}", devices)


def nothing_there() -> Publication:
    """The node has no device whose mode could be told; the last verified mode stays published."""
    return Publication(None, "", "no NVIDIA GPU on this node")


def failed(reason: str, devices: str | None = None) -> Publication:
    """The node is not in the mode that it should be in."""
    return Publication(FAILED, "", reason, devices)


def format_verified(
    observations: Iterable[Observation], known: Mapping[PciAddress, Verified], *, boot_id: str, now: str
) -> str:
    """The devices annotation: each device's mode and when it was verified; an entry that still holds keeps its time.

    A device that its next reset would change is not in it: the VM that opens it causes that reset.
    """
    entries: dict[str, dict[str, str]] = {}
    for one in observations:
        if one.active is None or one.active.mode is None or one.is_left_staged:
            continue
        entry = Verified(one.active.mode, now, boot_id)
        before = known.get(one.address)
        if before is not None and (before.mode, before.boot_id) == (entry.mode, entry.boot_id):
            entry = before
        entries[str(one.address)] = {key: str(value) for key, value in asdict(entry).items()}
    return json.dumps(entries, sort_keys=True, separators=(",", ":"))


def parse_verified(text: str | None) -> dict[PciAddress, Verified]:
    """The entries of the devices annotation; whatever in it makes no sense counts as not there."""
    try:
        entries = json.loads(text or "{}")
    except ValueError:
        return {}
    found: dict[PciAddress, Verified] = {}
    for address, entry in entries.items() if isinstance(entries, dict) else ():
        try:
            found[PciAddress.parse(address)] = Verified(
                parse_mode(entry["mode"]), str(entry["time"]), str(entry["boot_id"])
            )
        except (ValueError, TypeError, KeyError, InvalidValue):
            continue
    return found
