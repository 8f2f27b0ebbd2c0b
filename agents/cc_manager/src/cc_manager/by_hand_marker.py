"""When modes were last changed by hand: what the node's annotation says from before that is not believed.

`set` has no node object to correct, and a VM may open a GPU before the daemon is back to look at it. The file lies
under /run: it is forgotten with the boot, as are the annotation's entries.
"""

import logging
import time
from collections.abc import Mapping
from contextlib import suppress

from cc_manager.observation import Verified
from nodelib.errors import InvalidValue, NodeError
from nodelib.files import HostRoot, make_folder, write_whole
from nodelib.pci import PciAddress

log = logging.getLogger(__name__)

BY_HAND_FILE = "/run/cgpu-agents/cc-manager.by-hand"
"""When `set` last began a change, UTC; what cc-manager verified until then it no longer believes of a device in use."""
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
_READ_BYTES = 64


def utc_now() -> str:
    """The time as the devices annotation and the marker write it: UTC, as in RFC 3339, in whole seconds."""
    return time.strftime(_TIME_FORMAT, time.gmtime())


def leave_marker(host: HostRoot) -> None:
    """Have no daemon believe what was verified until now; for the holder of the lock. Raises NodeError."""
    path = host.resolve(BY_HAND_FILE)
    try:
        make_folder(path.parent)
        write_whole(path, f"{utc_now()}\n".encode("ascii"))
    except OSError as error:
        raise NodeError(
            f"cannot write {path} ({error.strerror}), without which the daemon would believe what is true no more: "
            "run as root"
        ) from error


def still_believed(host: HostRoot, verified: Mapping[PciAddress, Verified]) -> dict[PciAddress, Verified]:
    """What of *verified* is younger than the last change by hand; all of it if there was none. For the lock's holder.

    The same second is not younger, and what is still to come (the clock was set back) is not believed either. A marker
    that tells no time, or one still to come, lets nothing be believed; it is replaced by one of now, for what is
    verified from here on to hold.
    """
    now = _parse(utc_now())
    try:
        changed = _marker(host, now)
    except FileNotFoundError:
        return dict(verified)
    except (OSError, ValueError, InvalidValue) as error:
        log.warning("nothing that was verified is believed of a device in use: %s: %s", BY_HAND_FILE, error)
        with suppress(NodeError):
            leave_marker(host)
        return {}
    found: dict[PciAddress, Verified] = {}
    for address, one in verified.items():
        with suppress(ValueError):
            if changed < _parse(one.time) <= now:
                found[address] = one
    return found


def _marker(host: HostRoot, now: time.struct_time) -> time.struct_time:
    with host.resolve(BY_HAND_FILE).open("rb") as file:
        text = file.read(_READ_BYTES).decode("ascii").removesuffix("\n")
    changed = _parse(text)
    if changed > now:
        raise ValueError(f"{text} is still to come")
    return changed


def _parse(text: str) -> time.struct_time:
    """Comparable with others. Raises ValueError."""
    return time.strptime(text, _TIME_FORMAT)
