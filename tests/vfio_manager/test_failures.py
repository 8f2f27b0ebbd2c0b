"""What goes wrong while devices are bound: each failure stays with its device, and what was there is put back."""

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nodelib.pci import PciAddress
from tests.fakes.kernel import FakeKernel
from tests.fakes.parts import gpu
from tests.vfio_manager.builders import (
    AUDIO,
    BOUND,
    GPU,
    OTHER_GPU,
    Shown,
    add_card,
    add_other_gpu,
    bind,
    driver_of,
    names,
    shown,
    spoil,
    writes_for,
)
from vfio_manager.apply import apply_all
from vfio_manager.reconcile import Binder
from vfio_manager.settings import Settings

VARIANT = "nvgrace_gpu_vfio_pci"


def at_the_write_of(kernel: FakeKernel, path_end: str, value: str, do: Callable[[], None]) -> None:
    """Let something happen just before the kernel gets this write, once."""

    def before(path: str, written: str) -> None:
        if path.endswith(path_end) and written.strip() == value:
            kernel.faults.before_write = None
            do()

    kernel.faults.before_write = before


def refuse_vfio(kernel: FakeKernel, address: PciAddress, number: int) -> None:
    """vfio-pci fails to take the device; its old driver takes it back."""

    def before(path: str, value: str) -> None:
        if path.endswith("/bind") and value.strip() == str(address):
            kernel.faults.fail = {(address, "bind"): number} if path.endswith("vfio-pci/bind") else {}

    kernel.faults.before_write = before


# --- the kernel refuses


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.EBUSY, ": it is in use (EBUSY)"),
        (errno.ENODEV, " (No such device)"),
        (errno.EINVAL, " (EINVAL): a VFIO driver says so where the IOMMU is off"),
        (errno.EPERM, " (Operation not permitted): run as root"),
    ],
)
def test_a_bind_that_fails_is_told_puts_the_old_driver_back_and_harms_no_other_device(
    kernel: FakeKernel, number: int, says: str
) -> None:
    # facts/field-problems.md, rows 21 and 22; DESIGN, section 4
    refuse_vfio(kernel, GPU, number)
    (reason,) = bind(kernel)
    assert reason.startswith(f"{GPU}: the kernel refused the write to ")
    assert f"drivers/vfio-pci/bind{says}" in reason
    assert shown(kernel, GPU) == Shown("nvidia", d3cold_allowed="0")
    assert [shown(kernel, address) for address in (AUDIO, OTHER_GPU)] == [BOUND, BOUND]


def test_a_driver_that_does_not_come_back_either_leaves_the_device_free_and_the_first_reason_is_told(
    kernel: FakeKernel,
) -> None:
    kernel.faults.fail[(GPU, "bind")] = errno.EBUSY
    (reason,) = bind(kernel)
    assert "drivers/vfio-pci/bind" in reason
    assert shown(kernel, GPU) == Shown(None, d3cold_allowed="0")
    kernel.faults.fail.clear()
    assert bind(kernel) == []
    assert shown(kernel, GPU) == BOUND


@pytest.mark.parametrize("verb", ["d3cold_allowed", "driver_override", "unbind"])
def test_a_refusal_before_the_device_left_its_driver_leaves_everything_as_it_was(kernel: FakeKernel, verb: str) -> None:
    before = replace(shown(kernel, GPU), d3cold_allowed="1" if verb == "d3cold_allowed" else "0")
    kernel.faults.fail[(GPU, verb)] = errno.EPERM
    (reason,) = bind(kernel)
    assert names([reason], GPU)
    assert shown(kernel, GPU) == before
    assert "bind nvidia" not in writes_for(kernel, GPU), "it never left nvidia"
    assert driver_of(kernel, OTHER_GPU) == "vfio-pci"


def test_a_device_that_cannot_be_kept_awake_stays_bound_and_is_told(kernel: FakeKernel) -> None:
    kernel.faults.fail[(OTHER_GPU, "power/control")] = errno.EIO
    (reason,) = bind(kernel)
    assert names([reason], OTHER_GPU)
    assert shown(kernel, OTHER_GPU) == replace(BOUND, power_control="auto")
    assert writes_for(kernel, OTHER_GPU)[-2:] == ["bind vfio-pci", "power/control=on"], "nothing was undone"


def test_the_old_driver_comes_back_even_where_a_killed_run_left_our_override(kernel: FakeKernel) -> None:
    kernel.sysfs().set_driver_override(OTHER_GPU, "vfio-pci")
    refuse_vfio(kernel, OTHER_GPU, errno.EBUSY)
    (reason,) = bind(kernel, only=frozenset({OTHER_GPU}))
    assert names([reason], OTHER_GPU)
    assert shown(kernel, OTHER_GPU) == Shown("nvidia", "vfio-pci", d3cold_allowed="0")


def test_lockdown_and_a_read_only_sys_are_named_as_what_they_are(kernel: FakeKernel) -> None:
    kernel.set_lockdown("integrity")
    kernel.faults.fail[(GPU, "driver_override")] = errno.EPERM
    assert "kernel lockdown (integrity) is in force" in bind(kernel)[0]
    kernel.faults.is_read_only = True
    (reason,) = bind(kernel)
    assert names([reason], GPU)
    assert "/sys is mounted read-only here; mount the host's /sys writable" in reason


# --- the kernel does not answer


@pytest.fixture
def one_held(bare_kernel: FakeKernel) -> FakeKernel:
    """Only the card's GPU has to leave a driver, so that a short deadline concerns nothing else."""
    add_card(bare_kernel, audio_on=None)
    add_other_gpu(bare_kernel, on=None)
    return bare_kernel


def test_an_unbind_that_hangs_is_given_up_at_the_deadline_and_the_device_is_named(
    one_held: FakeKernel, caplog: pytest.LogCaptureFixture
) -> None:
    # facts/field-problems.md, row 15. Linux 6.12 also blocks reads of driver_override meanwhile.
    one_held.faults.hang.add((GPU, "unbind"))
    (reason,) = bind(one_held, unbind_timeout_s=0.3)
    assert reason.startswith(f"{GPU}: the kernel did not finish the write to ")
    assert "nvidia/unbind within 0.3 s; it may still hold the device" in reason
    assert [driver_of(one_held, address) for address in (AUDIO, OTHER_GPU)] == ["vfio-pci"] * 2
    assert writes_for(one_held, GPU)[-1] == "unbind nvidia", "no second write while the kernel holds the device"
    assert "could not" not in caplog.text, "nor an attempt at one"
    one_held.release_hangs()
    one_held.wait_until_idle()
    assert bind(one_held) == []
    assert shown(one_held, GPU) == BOUND


def test_a_gpu_that_a_monitoring_tool_has_open_is_given_up_and_bound_once_it_is_closed(one_held: FakeKernel) -> None:
    # facts/field-problems.md, row 15
    with one_held.in_use(GPU):
        (reason,) = bind(one_held, unbind_timeout_s=0.3)
        assert names([reason], GPU)
        assert driver_of(one_held, OTHER_GPU) == "vfio-pci"
    one_held.wait_until_idle()
    assert bind(one_held) == []
    assert driver_of(one_held, GPU) == "vfio-pci"


def test_while_the_kernel_holds_a_device_a_second_round_writes_nothing_to_it(one_held: FakeKernel) -> None:
    # DESIGN, section 2: that device gets no second write while the first lives
    one_held.faults.hang.add((GPU, "unbind"))
    binder = Binder(one_held.node(), Settings(unbind_timeout_s=0.3))
    assert names(binder.bind().reasons, GPU)
    assert {m.name: m.values for m in binder.metrics()}["vfio_manager_failures"] == {("hung",): 1.0}
    written = list(one_held.writes)
    (reason,) = binder.bind().reasons
    assert reason.startswith(f"{GPU}: the kernel holds its lock")
    assert one_held.writes == written
    one_held.release_hangs()


def test_a_release_that_hangs_is_given_up_too(bare_kernel: FakeKernel) -> None:
    add_other_gpu(bare_kernel, on="vfio-pci")
    bare_kernel.faults.hang.add((OTHER_GPU, "unbind"))
    (reason,) = Binder(bare_kernel.node(), Settings(unbind_timeout_s=0.3)).release().reasons
    assert "vfio-pci/unbind within 0.3 s" in reason
    assert names([reason], OTHER_GPU)
    bare_kernel.release_hangs()


# --- things change under us


@pytest.mark.parametrize("after", ["d3cold_allowed=0", "driver_override=vfio-pci", "unbind nvidia", "bind vfio-pci"])
def test_a_device_that_vanishes_between_two_writes_is_told_and_the_others_are_bound(
    kernel: FakeKernel, after: str
) -> None:
    def before(path: str, value: str) -> None:
        if writes_for(kernel, GPU)[-2:-1] == [after]:
            kernel.faults.before_write = None
            kernel.unplug(GPU)

    kernel.faults.before_write = before
    (reason,) = bind(kernel)
    assert reason == f"{GPU}: the device left the bus"
    assert [driver_of(kernel, address) for address in (AUDIO, OTHER_GPU)] == ["vfio-pci"] * 2


def test_a_device_that_was_asked_for_and_vanishes_does_not_hide_what_became_of_the_others(kernel: FakeKernel) -> None:
    at_the_write_of(kernel, "nvidia/unbind", str(OTHER_GPU), lambda: kernel.unplug(OTHER_GPU))
    reasons = bind(kernel, only=frozenset({GPU, OTHER_GPU}))
    assert reasons == [f"{OTHER_GPU}: the device left the bus", f"{OTHER_GPU}: there is no NVIDIA device"]
    assert driver_of(kernel, GPU) == "vfio-pci"


def test_a_device_that_another_driver_took_meanwhile_is_told_and_left_to_it(kernel: FakeKernel) -> None:
    def take() -> None:
        sysfs = kernel.sysfs()
        sysfs.unbind(OTHER_GPU, "nvidia", 10)
        kernel.load_driver("nouveau")
        sysfs.set_driver_override(OTHER_GPU, "nouveau")
        sysfs.bind(OTHER_GPU, "nouveau")

    at_the_write_of(kernel, "nvidia/unbind", str(OTHER_GPU), take)
    assert names(bind(kernel), OTHER_GPU)
    assert driver_of(kernel, OTHER_GPU) == "nouveau"
    assert bind(kernel) == []
    assert driver_of(kernel, OTHER_GPU) == "vfio-pci"


def test_a_device_that_is_taken_away_right_after_its_bind_is_told(kernel: FakeKernel) -> None:
    # facts/field-problems.md, row 22: every write succeeded, and yet it is not bound
    address = str(OTHER_GPU)
    take = kernel.sysfs().unbind
    at_the_write_of(kernel, f"{address}/power/control", "on", lambda: take(OTHER_GPU, "vfio-pci", 10))
    outcome = Binder(kernel.node(), Settings()).bind()
    assert (outcome.ok, outcome.reasons) == (False, (f"{address}: still on no driver",))


# --- virtual machines


@pytest.fixture
def bound_elsewhere(bare_kernel: FakeKernel) -> FakeKernel:
    """The card and the other GPU are on vfio-pci, and another VFIO driver is there to be wanted."""
    add_card(bare_kernel, on="vfio-pci", audio_on="vfio-pci")
    add_other_gpu(bare_kernel, on="vfio-pci")
    bare_kernel.load_driver(VARIANT)
    return bare_kernel


@pytest.mark.parametrize("opened", [GPU, AUDIO])
def test_a_device_that_a_vm_opens_after_the_plan_was_made_is_left_alone(
    bound_elsewhere: FakeKernel, opened: PciAddress
) -> None:
    # DESIGN, section 2: in use = `enable` above 0 for any function of its group
    node = bound_elsewhere.node()
    binder = Binder(node, Settings(driver=VARIANT))
    plan, _ = binder.plan(binder.scan())
    with bound_elsewhere.start_vm(opened):
        failures = apply_all(plan.devices, node.sysfs, unbind_timeout_s=10.0)
        assert {failure.address: failure.kind for failure in failures} == {GPU: "busy", AUDIO: "busy"}
        assert all("a virtual machine opened" in failure.reason for failure in failures)
        assert writes_for(bound_elsewhere, GPU) == writes_for(bound_elsewhere, AUDIO) == []
    assert driver_of(bound_elsewhere, OTHER_GPU) == VARIANT


@pytest.mark.parametrize("by_cdev", [False, True])
def test_a_restart_under_running_vms_writes_nothing_at_all(tmp_path: Path, by_cdev: bool) -> None:
    # facts/field-problems.md, rows 13 and 14. Nobody set d3cold_allowed and power/control right before.
    with FakeKernel(tmp_path, vfio_cdevs=by_cdev) as kernel:
        add_card(kernel, on="vfio-pci", audio_on="vfio-pci")
        with kernel.start_vm(GPU, AUDIO, by_cdev=by_cdev):
            assert bind(kernel) == []
            assert kernel.writes == []


# --- what cannot be read


def test_a_gpu_that_cannot_be_understood_is_told_and_the_others_are_bound(kernel: FakeKernel) -> None:
    # facts/field-problems.md, rows 21 and 22: nobody can say that it is bound
    folder = kernel.host.root / "sys/bus/pci/devices" / str(OTHER_GPU)
    spoil(folder / "class", "garbage\n")
    (reason,) = bind(kernel)
    assert reason.startswith(f"{OTHER_GPU}: class makes no sense ('garbage' is no hexadecimal id)")
    assert [driver_of(kernel, address) for address in (GPU, AUDIO)] == ["vfio-pci"] * 2


def test_an_attribute_that_is_not_needed_may_be_garbage(kernel: FakeKernel) -> None:
    # facts/field-problems.md, row 21
    folder = kernel.host.root / "sys/bus/pci/devices" / str(OTHER_GPU)
    spoil(folder / "numa_node", "everywhere\n")
    assert bind(kernel) == []
    assert driver_of(kernel, OTHER_GPU) == "vfio-pci"


def test_a_device_of_another_vendor_with_the_class_of_a_gpu_is_never_touched(kernel: FakeKernel) -> None:
    # facts/field-problems.md, row 35: vendor 10de only
    address = kernel.add_device(replace(gpu("0000:0a:00.0", group=3), vendor=0x1002))
    assert bind(kernel) == []
    assert writes_for(kernel, address) == []
