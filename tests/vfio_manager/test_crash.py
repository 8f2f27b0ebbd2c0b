"""An agent that dies after any step leaves a node that the next run finishes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nodelib.wakeups import Wakeups
from tests.fakes.kernel import FakeKernel
from tests.vfio_manager.builders import BOUND, OTHER_GPU, Shown, add_other_gpu, bind, planned, shown
from vfio_manager.apply import apply_all
from vfio_manager.plan import plan_release
from vfio_manager.reconcile import Binder
from vfio_manager.settings import Settings

VARIANT = "nvgrace_gpu_vfio_pci"


class Killed(BaseException):
    """The process ends here: nothing is put back, nothing is told."""


def killed_after(steps: int) -> Callable[[], bool]:
    """Asked before each step: ends everything when *steps* of them are done."""
    left = [None] * steps

    def ask() -> bool:
        if not left:
            raise Killed
        left.pop()
        return False

    return ask


def run_and_die(kernel: FakeKernel, settings: Settings, steps: int) -> int:
    """Begin to bind the one GPU and die after so many steps; how many the plan has."""
    node = kernel.node()
    binder = Binder(node, settings)
    plan, _ = binder.plan(binder.scan())
    if steps < len(plan.steps):
        with pytest.raises(Killed):
            apply_all(plan.devices, node.sysfs, unbind_timeout_s=10.0, stopped=killed_after(steps))
    return len(plan.steps)


@pytest.mark.parametrize(
    ("first_driver", "settings", "end"),
    [
        ("nvidia", Settings(), BOUND),
        ("vfio-pci", Settings(driver=VARIANT), Shown(VARIANT, VARIANT, "on", "0")),
        ("vfio-pci", Settings(), Shown("vfio-pci", "(null)", "on", "0")),
    ],
    ids=["from its usual driver", "from one VFIO driver to another", "bound but asleep"],
)
def test_a_crash_after_any_step_is_finished_by_the_next_run(
    tmp_path: Path, first_driver: str, settings: Settings, end: Shown
) -> None:
    done, steps = 0, 1
    while done < steps:
        with FakeKernel(tmp_path / str(done)) as kernel:
            kernel.load_driver(VARIANT)
            add_other_gpu(kernel, on=first_driver)
            steps = run_and_die(kernel, settings, done)
            binder = Binder(kernel.node(), settings)
            assert binder.bind().reasons == ()
            assert shown(kernel, OTHER_GPU) == end, f"after {done} of {steps} steps"
            assert planned(binder) == []
        done += 1
    assert steps >= 3


def test_a_crash_after_any_step_of_a_release_leaves_a_device_that_bind_takes_again(tmp_path: Path) -> None:
    done, steps = 0, 1
    while done < steps:
        with FakeKernel(tmp_path / str(done)) as kernel:
            kernel.load_driver("nvidia")
            add_other_gpu(kernel, on="vfio-pci")
            node = kernel.node()
            plan = plan_release(node.scan(), Settings())
            steps = len(plan.steps)
            with pytest.raises(Killed):
                apply_all(plan.devices, node.sysfs, unbind_timeout_s=10.0, stopped=killed_after(done))
            assert bind(kernel) == []
            assert shown(kernel, OTHER_GPU).driver == "vfio-pci", f"after {done} of {steps} steps"
        done += 1
    assert steps == 4


def test_an_agent_that_is_told_to_stop_begins_no_further_step_and_the_next_run_finishes(tmp_path: Path) -> None:
    with FakeKernel(tmp_path) as kernel:
        add_other_gpu(kernel)
        wakeups = Wakeups()
        kernel.faults.before_write = lambda path, _: wakeups.request_stop() if path.endswith("unbind") else None
        outcome = Binder(kernel.node(), Settings(), wakeups).bind()
        assert outcome.reasons == (f"{OTHER_GPU}: still on no driver",)
        assert kernel.writes[-1][0].endswith("nvidia/unbind")
        kernel.faults.before_write = None
        assert bind(kernel) == []
        assert shown(kernel, OTHER_GPU) == BOUND
