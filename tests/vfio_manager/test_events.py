"""Kubernetes Events of the daemon: what an administrator must know, once, and that it is over."""

import errno

from nodelib.event_reasons import EventReason
from tests.fakes.kernel import FakeKernel
from tests.vfio_manager.builders import OTHER_GPU
from vfio_manager.event_reasons import BOUND, NOT_BOUND
from vfio_manager.reconcile import Binder
from vfio_manager.settings import Settings

Told = tuple[EventReason, str]


def test_field_38_a_gpu_that_is_not_bound_is_told_once_with_its_reason_and_again_when_it_is(kernel: FakeKernel) -> None:
    told: list[Told] = []
    binder = Binder(kernel.node(), Settings(), tell=lambda *event: told.append(event))
    kernel.faults.fail[(OTHER_GPU, "bind")] = errno.EBUSY
    assert not binder.round().ready
    ((reason, message),) = told
    assert reason is NOT_BOUND
    assert message.startswith(f"{OTHER_GPU}: the kernel refused the write")
    binder.round()
    assert len(told) == 1
    kernel.faults.fail.clear()
    assert binder.round().ready
    assert told[1] == (BOUND, "all devices are on their VFIO drivers again")
    binder.round()
    assert len(told) == 2


def test_a_node_on_which_all_is_well_is_not_spoken_of(kernel: FakeKernel) -> None:
    told: list[Told] = []
    assert Binder(kernel.node(), Settings(), tell=lambda *event: told.append(event)).round().ready
    assert told == []
