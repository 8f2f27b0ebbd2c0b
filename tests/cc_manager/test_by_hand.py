"""`set` and `knobs` for a person at the keyboard: chosen devices, progress, a change of mind, and what is refused."""

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cc_manager.cli import cli
from cc_manager.lock import mode_lock
from cc_manager.settings import LOCK_FILE
from nodelib.cli import run_command
from nodelib.pci import PciAddress
from tests.cc_manager.simulated import CcNode
from tests.fakes.parts import B200, gpu
from tests.fakes.polling import until

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[CcNode]:
    """Two GPUs and a switch."""
    with CcNode(tmp_path, gpus=2, switches=1, real_time=True) as node:
        yield node


def run(node: CcNode, *args: str) -> int:
    return run_command(cli, args, obj=node)


def said(captured: Captured) -> str:
    """Standard error on one line: sentences are wrapped for the terminal."""
    return " ".join(captured.readouterr().err.split())


# --- progress


def test_each_device_is_told_as_soon_as_it_is_through_a_phase(node: CcNode, capsys: Captured) -> None:
    assert run(node, "set", "ppcie") == 0
    lines = [line.split(" INFO    ")[1] for line in capsys.readouterr().err.splitlines() if " INFO    " in line]
    took = re.compile(r"\(\d+\.\d s, (\d) of 3\)$")
    for done in ("mode ppcie is staged", "was reset", "is verified in mode ppcie"):
        of_phase = [line for line in lines if done in line]
        assert sorted(line.split()[0] for line in of_phase) == [str(address) for address in node.addresses]
        assert [int(match[1]) for line in of_phase if (match := took.search(line))] == [1, 2, 3]
    assert len(lines) == 9


# --- chosen devices


def test_only_the_named_devices_are_changed(node: CcNode, capsys: Captured) -> None:
    first, chosen, other = node.addresses
    assert run(node, "set", "on", "--device", str(chosen)) == 0
    assert node.devices[chosen].active.cc_bits == 1
    assert [node.devices[address].resets for address in (first, other)] == [0, 0]


def test_two_devices_can_be_named(node: CcNode) -> None:
    _, first, second = node.addresses
    assert run(node, "set", "devtools", "--device", str(first), "--device", str(second)) == 0
    assert [node.devices[address].active.cc_bits for address in (first, second)] == [3, 3]


@pytest.mark.parametrize("address", ["0000:99:00.0", "0000:1b:00.1", "1b:00.0", "1b"])
def test_a_device_that_is_not_there_or_not_named_in_full_is_refused_before_anything_is_touched(
    node: CcNode, capsys: Captured, address: str
) -> None:
    for verb in (["set", "on"], ["set", "on", "--dry-run"], ["knobs"]):
        assert run(node, *verb, "--device", address) == 2
        assert address in capsys.readouterr().err
    assert node.accesses == [0, 0, 0]


def test_ppcie_for_a_part_of_the_fabric_is_refused(node: CcNode, capsys: Captured) -> None:
    assert run(node, "set", "ppcie", "--device", str(node.addresses[1])) == 1
    assert "it is not in mode ppcie and was left out" in said(capsys)
    node.assert_all_in("off")


# --- what may be a mistake, and what is refused


def test_field_33_ppcie_without_switches_is_warned_of(tmp_path: Path, capsys: Captured) -> None:
    with CcNode(tmp_path, gpus=1, real_time=True) as node:
        assert run(node, "set", "ppcie", "--dry-run") == 0
        assert "warning: mode ppcie protects the links" in capsys.readouterr().out
        assert run(node, "set", "ppcie") == 0
        assert "no NVSwitch is to be seen on this node" in said(capsys)
        node.assert_all_in("ppcie")


def test_ppcie_on_blackwell_is_refused_with_the_modes_that_there_are(tmp_path: Path, capsys: Captured) -> None:
    with CcNode(tmp_path, hardware=(gpu("0000:1b:00.0", B200, group=1),), real_time=True) as node:
        assert run(node, "set", "ppcie") == 1
        text = said(capsys)
    assert "which has no mode ppcie" in text
    assert "one of off, on, devtools" in text


def test_field_17_one_gpu_that_cannot_do_it_is_named_with_the_reason_and_nothing_is_changed(
    tmp_path: Path, capsys: Captured
) -> None:
    hardware = (gpu("0000:1b:00.0", 0x20B0, group=1), gpu("0000:1c:00.0", group=2))
    with CcNode(tmp_path, hardware=hardware, real_time=True) as node:
        assert run(node, "set", "on") == 1
        assert "0000:1b:00.0: the chip of device id 0x20b0 is not known" in said(capsys)
        node.assert_all_in("off")
        assert run(node, "set", "on", "--device", "0000:1c:00.0") == 0


def test_field_19_lockdown_is_told_before_anything_is_changed(tmp_path: Path, capsys: Captured) -> None:
    with CcNode(tmp_path, gpus=2, awake=False, real_time=True) as node:
        node.kernel.set_lockdown("integrity")
        assert run(node, "set", "on") == 1
        assert "kernel lockdown (integrity) forbids mapping BAR0" in said(capsys)
        assert (node.kernel.writes, node.accesses) == ([], [0, 0])


def test_set_without_rights_is_one_sentence_before_anything_is_changed(node: CcNode, capsys: Captured) -> None:
    path = node.node.host.resolve(LOCK_FILE)
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    path.parent.touch()  # a folder that cannot be made: for root, rights alone refuse nothing
    assert run(node, "set", "on") == 1
    error = said(capsys)
    assert error == f"error: cannot open the lock {path} (File exists): run as root"
    assert (node.kernel.writes, node.accesses) == ([], [0, 0, 0])


def test_field_24_who_has_a_device_open_is_named_where_it_can_be_seen(node: CcNode, capsys: Captured) -> None:
    busy = node.addresses[1]
    with node.kernel.start_vm(busy):
        assert run(node, "set", "on", "--when-busy", "fail") == 1
    assert f"in use by a virtual machine: {busy}" in said(capsys)


def test_a_dry_run_wakes_nothing_and_plans_as_if_the_devices_were_awake(tmp_path: Path, capsys: Captured) -> None:
    with CcNode(tmp_path, gpus=2, awake=False, real_time=True) as node:
        assert run(node, "set", "on", "--dry-run") == 0
        out = " ".join(capsys.readouterr().out.split())
        assert "1 stage mode on on 0000:1b:00.0 1 stage mode on on 0000:1c:00.0 2 reset 0000:1b:00.0" in out
        assert "0000:1b:00.0 and 1 more: it sleeps and was not woken for this: it may be in the mode already" in out
        assert (node.kernel.writes, node.accesses) == ([], [0, 0])


# --- a change of mind


def signal_at(node: CcNode, path_end: str, *numbers: int) -> None:
    """Somebody presses Ctrl-C (or the like) just before the first write to such an attribute, and it is heard."""
    lock, pending = threading.Lock(), list(numbers)

    def before(path: str, value: str) -> None:
        with lock:
            while path.endswith(path_end) and pending:
                os.kill(os.getpid(), pending.pop(0))

    node.kernel.faults.before_write = before


@pytest.fixture
def in_main_thread() -> None:
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals come to the main thread only")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_field_41_a_signal_while_it_stages_puts_the_knobs_back_and_says_what_is_left(
    node: CcNode, capsys: Captured, in_main_thread: None, number: int
) -> None:
    sent = threading.Event()

    def at_first_write(address: PciAddress, offset: int, value: int | None) -> None:
        if any(device.knob_writes for device in node.devices.values()) and not sent.is_set():
            sent.set()
            os.kill(os.getpid(), number)
            until(lambda: "stopping" in capsys.readouterr().err)

    node.on_access.append(at_first_write)
    assert run(node, "set", "on") == 1
    node.assert_all_in("off")
    assert node.resets() == []
    error = said(capsys)
    switch, first, second = node.addresses
    assert f"error: stopped; in mode off: {switch}, {first}, {second}; no reset will change that" in error


def test_a_signal_while_the_devices_are_reset_leaves_them_whole(
    node: CcNode, capsys: Captured, in_main_thread: None
) -> None:
    signal_at(node, "/reset", signal.SIGTERM)
    code = run(node, "set", "on")
    node.assert_none_in_waiting()
    error = said(capsys)
    if code:  # it may have been heard only when all was verified
        assert "in mode on: 0000:1b:00.0, 0000:1c:00.0" in error
        assert "no reset will change that" in error


def test_a_second_signal_ends_at_once_and_says_what_may_be_left(
    node: CcNode, capsys: Captured, in_main_thread: None
) -> None:
    busy = node.addresses[1]
    node.kernel.faults.hang.add((busy, "reset"))
    signal_at(node, "/reset", signal.SIGINT, signal.SIGTERM)  # the kernel makes one of two that are the same
    assert run(node, "set", "on") == 1
    assert "ended at once: mode on may be staged on some devices" in said(capsys)
    node.kernel.release_hangs()
    until(lambda: all(thread.name != "device" for thread in threading.enumerate()))


def test_a_signal_while_it_waits_for_a_vm_ends_it_with_nothing_changed(
    node: CcNode, capsys: Captured, in_main_thread: None
) -> None:
    def press_when_it_waits() -> None:
        until(lambda: "waiting: " in capsys.readouterr().err)
        os.kill(os.getpid(), signal.SIGINT)

    with node.kernel.start_vm(node.addresses[1]):
        presser = threading.Thread(target=press_when_it_waits)
        presser.start()
        assert run(node, "set", "on") == 1
        presser.join()
    assert "stopped while waiting (in use by a virtual machine: 0000:1b:00.0); nothing was changed" in said(capsys)
    node.assert_all_in("off")


def test_signals_do_what_they_did_before_once_set_has_ended(node: CcNode, in_main_thread: None) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert run(node, "set", "on") == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_field_15_the_lock_is_free_while_it_waits_for_a_vm(node: CcNode, capsys: Captured) -> None:
    machine = node.kernel.start_vm(node.addresses[1])
    codes: list[int] = []
    setting = threading.Thread(target=lambda: codes.append(run(node, "set", "on")), name="set")
    setting.start()
    until(lambda: "waiting: in use by a virtual machine" in capsys.readouterr().err)
    with mode_lock(node.node.host.resolve(LOCK_FILE)):
        pass
    machine.close()
    until(lambda: not setting.is_alive())
    assert codes == [0]


# --- a device that leaves


def test_a_gpu_that_is_unplugged_during_the_change_is_told_and_the_change_has_failed(
    node: CcNode, capsys: Captured
) -> None:
    _, changing, idle = node.addresses
    node.devices[idle].knobs.update({8: 1, 10: 2})
    node.devices[idle].reset()
    until(lambda: node.setter().look()[-1].active is not None)

    def unplug(path: str, value: str) -> None:
        if path.endswith(f"{changing}/reset"):
            node.kernel.faults.before_write = None
            node.kernel.unplug(idle)  # which is in the mode already: no step of the change would notice

    node.kernel.faults.before_write = unplug
    assert run(node, "set", "on") == 1
    assert f"error: the devices are not all in mode on: {idle}: the device left the bus" in said(capsys)
    assert node.devices[changing].active.cc_bits == 1


def test_a_gpu_that_is_unplugged_while_it_waits_for_a_vm_is_told(node: CcNode, capsys: Captured) -> None:
    machine = node.kernel.start_vm(node.addresses[1])
    codes: list[int] = []
    setting = threading.Thread(target=lambda: codes.append(run(node, "set", "on")), name="set")
    setting.start()
    until(lambda: "waiting: in use by a virtual machine" in capsys.readouterr().err)
    node.kernel.unplug(node.addresses[2])
    until(lambda: not setting.is_alive())
    assert codes == [1]
    assert f"{node.addresses[2]}: the device left the bus" in said(capsys)
    machine.close()


# --- knobs


def knob_rows(node: CcNode, captured: Captured, *args: str) -> list[dict[str, object]]:
    captured.readouterr()
    assert run(node, "knobs", "-o", "json", *args) == 0
    found = json.loads(captured.readouterr().out)
    assert isinstance(found, list)
    return found


def test_knobs_shows_every_knob_of_every_device(node: CcNode, capsys: Captured) -> None:
    gpu_address = node.addresses[1]
    node.devices[gpu_address].knobs.update({8: 1, 7: 0})
    assert run(node, "knobs", "--device", str(gpu_address)) == 0
    assert capsys.readouterr().out.splitlines() == [
        "ADDRESS       KNOB  NAME            STAGED  BY HOST",
        "0000:1b:00.0  2     restriction 2   0       allowed",
        "0000:1b:00.0  4     restriction 4   0       allowed",
        "0000:1b:00.0  34    restriction 34  0       allowed",
        "0000:1b:00.0  6     devtools        0       allowed",
        "0000:1b:00.0  8     cc              1       forbidden",
        "0000:1b:00.0  10    decoupler       0       allowed",
        "0000:1b:00.0  45    ppcie           0       allowed",
        "",
        "0000:1b:00.0: knobs 8: only the baseboard controller (BMC) changes them",
    ]
    assert len(knob_rows(node, capsys)) == 3 * 7


def test_knobs_of_firmware_without_ppcie_and_of_blackwell(tmp_path: Path, capsys: Captured) -> None:
    with CcNode(tmp_path, hardware=(gpu("0000:1b:00.0", B200, group=1),), real_time=True) as node:
        (row,) = [row for row in knob_rows(node, capsys) if row["knob"] == 45]
    assert (row["staged"], row["allowed_in_band"], row["change"]) == (None, None, "absent")


def test_knobs_stages_nothing_and_wakes_nothing(tmp_path: Path, capsys: Captured) -> None:
    with CcNode(tmp_path, gpus=2, awake=False, real_time=True) as node:
        assert run(node, "knobs") == 0
        out = " ".join(capsys.readouterr().out.split())
        assert out == (
            "no knob could be read, because: 0000:1b:00.0 and 1 more: it sleeps (D3hot) and is not woken only to be "
            "looked at"
        )
        assert (node.kernel.writes, node.accesses) == ([], [0, 0])


def test_field_24_knobs_leaves_a_device_in_use_alone(node: CcNode, capsys: Captured) -> None:
    busy = node.addresses[1]
    with node.kernel.start_vm(busy):
        before = node.devices[busy].accesses
        assert run(node, "knobs") == 0
        assert node.devices[busy].accesses == before
    assert f"{busy}: in use and not touched" in capsys.readouterr().out
    assert [device.knob_writes for device in node.devices.values()] == [[], [], []]


def test_field_18_status_with_knobs_shows_what_is_left_staged(node: CcNode, capsys: Captured) -> None:
    node.devices[node.addresses[2]].knobs[8] = 1
    assert run(node, "status", "--knobs") == 0
    shown = [line.split()[-3:] for line in capsys.readouterr().out.splitlines()[1:4]]
    assert shown == [["off", "off", "BAR0"], ["off", "off", "BAR0"], ["off", "on", "BAR0"]]
    assert node.kernel.writes == []


@pytest.mark.parametrize("args", [["knobs"], ["status", "--knobs"]])
def test_the_firmware_is_asked_by_one_process_at_a_time(node: CcNode, capsys: Captured, args: list[str]) -> None:
    with mode_lock(node.node.host.resolve(LOCK_FILE)):
        assert run(node, *args) == 1
    assert "another cc-manager on this node holds" in said(capsys)
    assert node.accesses == [0, 0, 0]
