"""`unbind`: idle devices go back to the driver that the kernel chooses for them."""

import errno
from dataclasses import replace

from tests.fakes.kernel import FakeKernel
from tests.vfio_manager.builders import (
    AUDIO,
    BOUND,
    GPU,
    OTHER_GPU,
    Shown,
    add_other_gpu,
    bind,
    driver_of,
    names,
    shown,
    writes_for,
)
from vfio_manager.reconcile import Binder, Outcome
from vfio_manager.settings import Settings


def release(kernel: FakeKernel, settings: Settings | None = None) -> Outcome:
    return Binder(kernel.node(), settings or Settings()).release()


def test_every_device_is_back_on_its_usual_driver_and_without_an_override(kernel: FakeKernel) -> None:
    assert bind(kernel) == []
    assert release(kernel).ok
    assert shown(kernel, GPU) == shown(kernel, OTHER_GPU) == Shown("nvidia", d3cold_allowed="0")
    assert shown(kernel, AUDIO) == Shown("snd_hda_intel", d3cold_allowed="0")
    assert writes_for(kernel, GPU)[-3:] == ["driver_override=", "unbind vfio-pci", "drivers_probe"]
    written = list(kernel.writes)
    assert release(kernel).ok
    assert kernel.writes == written, "there was nothing left to release"


def test_a_device_that_a_vm_has_open_is_named_and_kept_with_its_whole_group(kernel: FakeKernel) -> None:
    assert bind(kernel) == []
    with kernel.start_vm(GPU):
        outcome = release(kernel)
        assert [refusal.problem.code for refusal in outcome.refusals] == ["in-use", "in-use"]
        assert names(outcome.reasons, GPU)
        assert names(outcome.reasons, AUDIO)
        assert [driver_of(kernel, a) for a in (GPU, AUDIO, OTHER_GPU)] == ["vfio-pci", "vfio-pci", "nvidia"]


def test_a_device_without_any_other_driver_ends_up_free(bare_kernel: FakeKernel) -> None:
    add_other_gpu(bare_kernel, on="vfio-pci")
    assert release(bare_kernel).ok
    assert shown(bare_kernel, OTHER_GPU) == Shown(None)


def test_one_device_is_released_and_the_others_stay(kernel: FakeKernel) -> None:
    assert bind(kernel) == []
    assert release(kernel, Settings(only=frozenset({OTHER_GPU}))).ok
    assert [driver_of(kernel, a) for a in (GPU, AUDIO, OTHER_GPU)] == ["vfio-pci", "vfio-pci", "nvidia"]


def test_a_release_that_fails_halfway_leaves_the_device_bound_as_it_was(kernel: FakeKernel) -> None:
    assert bind(kernel) == []
    kernel.faults.fail[(GPU, "drivers_probe")] = errno.EIO
    outcome = release(kernel)
    assert names(outcome.reasons, GPU)
    assert shown(kernel, GPU) == replace(BOUND, power_control="auto")
    assert driver_of(kernel, OTHER_GPU) == "nvidia"


def test_a_device_that_the_kernel_gives_to_vfio_again_is_told(kernel: FakeKernel) -> None:
    # Somebody wrote its id to vfio-pci's new_id, as scripts did before driver_override (Linux 3.16)
    assert bind(kernel) == []
    new_id = kernel.host.root / "sys/bus/pci/drivers/vfio-pci/new_id"
    assert kernel.write(new_id, "10de 2330") == 0
    outcome = release(kernel, Settings(only=frozenset({OTHER_GPU})))
    assert outcome.reasons == (f"{OTHER_GPU}: still on driver vfio-pci",)


def test_what_another_driver_holds_is_not_released(kernel: FakeKernel) -> None:
    assert release(kernel).ok
    assert kernel.writes == []
