"""The kernel modules that Kata's VMs need: loaded once, built-in counts, and a failure is told and holds no spec up."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from kata_manager.reconcile import SpecKeeper
from kata_manager.settings import VHOST_MODULES, Settings
from nodelib.modules import Ended
from nodelib.node import Node
from tests.fakes.kernel import FakeKernel
from tests.kata_manager.builders import PGPU, TWO_GPUS, add_two_gpus, files


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[FakeKernel]:
    """A node with two GPUs on which no vhost module is loaded."""
    with FakeKernel(tmp_path) as kernel:
        add_two_gpus(kernel)
        yield kernel


class Modprobe:
    """The kernel's own, and what was asked of it."""

    def __init__(self, kernel: FakeKernel, fails: tuple[str, ...] = ()) -> None:
        self._kernel = kernel
        self._fails = fails
        self.asked: list[str] = []

    def __call__(self, arguments: Sequence[str], timeout_s: float, /) -> Ended:
        self.asked.append(arguments[-1])
        if arguments[-1] in self._fails:
            return Ended(1, f"modprobe: FATAL: Module {arguments[-1]} not found in directory /lib/modules/6.12\n")
        return self._kernel.modprobe(arguments, timeout_s)


def keeper(kernel: FakeKernel, modprobe: Modprobe, settings: Settings | None = None) -> SpecKeeper:
    node: Node = replace(kernel.node(), modprobe=modprobe)
    return SpecKeeper(node, settings or Settings())


def test_missing_modules_are_planned_loaded_and_then_left_alone(bare: FakeKernel) -> None:
    modprobe = Modprobe(bare)
    kept = keeper(bare, modprobe)
    assert [str(step) for step in kept.plan().steps[:2]] == [
        "load the kernel module vhost_vsock",
        "load the kernel module vhost_net",
    ]
    assert modprobe.asked == []
    assert kept.round().ready
    assert kept.round().ready
    assert modprobe.asked == list(VHOST_MODULES)
    assert kept.plan().steps == ()


def test_a_module_that_is_built_in_counts_as_loaded(bare: FakeKernel) -> None:
    folder = bare.host.root / "lib/modules" / bare.release
    (folder / "modules.builtin").write_text("kernel/drivers/vhost/vhost_net.ko\nkernel/drivers/vhost/vhost_vsock.ko\n")
    modprobe = Modprobe(bare)
    assert keeper(bare, modprobe).round().ready
    assert modprobe.asked == []


def test_load_kernel_modules_false_leaves_them_to_others(bare: FakeKernel) -> None:
    modprobe = Modprobe(bare)
    assert keeper(bare, modprobe, Settings(modules=())).round().ready
    assert modprobe.asked == []


def test_a_module_that_is_not_there_is_told_with_the_remedy_and_the_specs_are_written_all_the_same(
    bare: FakeKernel,
) -> None:
    kept = keeper(bare, Modprobe(bare, fails=("vhost_vsock",)))
    result = kept.round()
    assert not result.ready
    assert result.retry, "the administrator may install it: no event tells of that"
    assert result.message.startswith("could not load the kernel module vhost_vsock: ")
    assert result.message.endswith("if something else loads it, set LOAD_KERNEL_MODULES=false")
    assert files(bare) == {PGPU: TWO_GPUS}
    assert (bare.host.root / "sys/module/vhost_net").is_dir(), "the other one is loaded"


def test_cdi_enabled_false_keeps_no_spec_and_loads_the_modules(bare: FakeKernel) -> None:
    modprobe = Modprobe(bare)
    kept = keeper(bare, modprobe, Settings(keeps_specs=False))
    assert {type(step).__name__ for step in kept.plan().steps} == {"LoadModule"}
    result = kept.round()
    assert (result.ready, result.message) == (True, "no CDI spec is kept here (CDI_ENABLED=false)")
    assert not (bare.host.root / "var/run/cdi").exists()
    assert modprobe.asked == list(VHOST_MODULES)
