"""What the node's labels may say at any moment, checked against the hardware's side at each write of the node.

DESIGN, section 4: a ready value is there only while every device is verified in the mode that it speaks of, what is
staged is what is in force, and nothing is changing. Both `true` and `false` are ready values.
"""

from collections.abc import Callable, Iterable

from cc_manager.cluster.labels import READY, STATE, is_changing
from tests.fakes.gpu import ActiveMode, Chip, EmulatedDevice
from tests.fakes.kube.record import NodeState

READY_OF = {"on": "true", "ppcie": "true", "off": "false"}
"""Modes that have a ready value at all; `devtools` and `failed` have none."""

MODES = {
    "off": ActiveMode(0b00, is_ppcie=False),
    "on": ActiveMode(0b01, is_ppcie=False),
    "devtools": ActiveMode(0b11, is_ppcie=False),
    "ppcie": ActiveMode(0b00, is_ppcie=True),
}


DECOUPLERS = {
    **{(Chip.GH100, mode): value for mode, value in (("off", 0), ("on", 2), ("devtools", 0), ("ppcie", 2))},
    **{(Chip.NVSWITCH_GEN3, mode): 0 for mode in MODES},
}
"""What knob 10 must be on a node in a mode (facts/fsp-and-cc-mode.md section 4); Blackwell's is nobody's to touch."""


def staged(device: EmulatedDevice) -> ActiveMode:
    """What the next reset will put in force."""
    knobs = device.knobs
    return ActiveMode(bool(knobs[8]) | bool(knobs[6]) << 1, is_ppcie=bool(knobs.get(45, 0)))


def shown(device: EmulatedDevice, mode: str) -> ActiveMode:
    """What *device* shows on a node in *mode*: a switch has no mode of its own but ppcie."""
    return MODES[mode if mode == "ppcie" or device.chip is not Chip.NVSWITCH_GEN3 else "off"]


def untruths(state: NodeState, devices: Iterable[tuple[object, EmulatedDevice]]) -> list[str]:
    """What is wrong with the labels of *state* while the *devices* on the bus are as they are; empty if nothing is."""
    ready = state.labels.get(READY, "")
    if not ready:
        return []
    if is_changing(state.annotations):
        return [f"{READY} is {ready!r} while the annotations speak of a change"]
    mode = state.labels.get(STATE, "")
    if READY_OF.get(mode) != ready:
        return [f"{READY} is {ready!r} while {STATE} is {mode!r}"]
    found = []
    for address, device in devices:
        wanted = shown(device, mode)
        if device.active != wanted:
            found.append(f"{READY} is {ready!r} and {address} is in {device.active}, not {mode}")
        if (decoupler := DECOUPLERS.get((device.chip, mode))) not in (None, device.knobs[10]):
            found.append(f"{READY} is {ready!r} and {address} has its decoupler at {device.knobs[10]}, not {decoupler}")
        if staged(device) != wanted:
            found.append(f"{READY} is {ready!r} and {address} has {staged(device)} staged, not {mode}")
    return found


def checked_at_each_write(
    devices: Callable[[], Iterable[tuple[object, EmulatedDevice]]],
) -> Callable[[NodeState], None]:
    """A hook for `KubeApi.on_write` that fails the test at the first untrue label; *devices* are those on the bus then.

    It runs under the store's lock, so nothing of the API moves while it looks.
    """

    def check(state: NodeState) -> None:
        wrong = untruths(state, devices())
        assert not wrong, "; ".join(wrong)

    return check
