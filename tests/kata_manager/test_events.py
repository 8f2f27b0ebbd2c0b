"""Kubernetes Events of the daemon: what an administrator must know, once, and that it is over."""

from kata_manager.event_reasons import NOT_READY, READY
from kata_manager.reconcile import SpecKeeper
from kata_manager.settings import Settings
from nodelib.errors import NodeError
from nodelib.event_reasons import EventReason
from tests.fakes.kernel import FakeKernel
from tests.kata_manager.builders import PGPU, folder_of, put

Told = tuple[EventReason, str]


def keeper(kernel: FakeKernel, told: list[Told]) -> SpecKeeper:
    return SpecKeeper(kernel.node(), Settings(), tell=lambda *event: told.append(event))


def test_a_broken_spec_is_told_once_with_its_file_and_again_when_it_is_mended(kernel: FakeKernel) -> None:
    told: list[Told] = []
    kept = keeper(kernel, told)
    broken = put(kernel, "vendor.yaml", "{")
    assert not kept.round().ready
    ((reason, message),) = told
    assert reason is NOT_READY
    assert message.startswith(f"broken CDI spec {broken}")
    kept.round()
    assert len(told) == 1
    broken.unlink()
    assert kept.round().ready
    assert told[1:] == [(READY, "the CDI specs and the kernel modules are right again")]
    kept.round()
    assert len(told) == 2


def test_a_spec_that_cannot_be_written_is_told_too(kernel: FakeKernel) -> None:
    told: list[Told] = []
    kept = keeper(kernel, told)
    (folder_of(kernel) / PGPU).mkdir(parents=True)
    for _ in range(2):
        try:
            kept.round()
        except NodeError as error:
            failure = str(error)
    assert told == [(NOT_READY, failure)]
    assert f"cannot write {folder_of(kernel) / PGPU}" in failure


def test_a_node_on_which_all_is_well_is_not_spoken_of(kernel: FakeKernel) -> None:
    told: list[Told] = []
    assert keeper(kernel, told).round().ready
    assert told == []
