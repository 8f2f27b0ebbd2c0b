"""A thousand seeded lives of a node whose API server fails by chance, over real HTTP: the labels never lie, and when
the trouble is over the node is in its mode, says so, and nobody is left paused.
"""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cc_manager.cluster import labels
from cc_manager.cluster.operands import PAUSED, key_of
from cc_manager.reconcile import Reconciler
from cc_manager.settings import ClusterSettings, Drift, WhenBusy
from nodelib.kube import ApiError
from tests.cc_manager.simulated import QUICK, CcNode
from tests.cc_manager.workloads import add_operands, operand_labels
from tests.fakes.kube.faults import Drop, Fault, Garble, Refuse
from tests.fakes.kube.rest import Target

RUNS, AT_ONCE = 1000, 25
MODES = ("off", "on", "devtools", "ppcie")
OPERANDS = ("vfio-manager", "kata-sandbox-device-plugin")
FAULTS: tuple[Fault, ...] = (
    Refuse(401),
    Refuse(409),
    Refuse(422),
    Refuse(429, retry_after_s=1),
    Refuse(500),
    Refuse(503),
    Drop(),
    Drop(is_carried_out=True),
    Garble(b"<html>try again"),
    Garble(b"{}"),
)


class Life:
    """What happens to the node in one run, all of it from one seed."""

    def __init__(self, node: CcNode, seed: int) -> None:
        self._node = node
        self._random = random.Random(seed)
        self._settings = replace(QUICK, when_busy=self._random.choice(list(WhenBusy)))
        self._cluster = ClusterSettings(operand_timeout_s=5.0, drift=self._random.choice(list(Drift)))
        self._fault_rate = self._random.choice((0.05, 0.2, 0.5))
        self._manager = self._start()
        self.faults = 0

    def live(self) -> None:
        happenings: tuple[Callable[[], None], ...] = (
            self._another_label,
            self._another_label,
            self._pod_comes,
            self._pods_go,
            self._operator_switches,
            self._drift,
            self._restart,
        )
        self._node.api.faults.choose = self._by_chance
        for _ in range(self._random.randint(3, 6)):
            self._random.choice(happenings)()
            self._round()
        self._node.api.faults.choose = None

    def settle(self) -> None:
        """The trouble is over, and the administrator wants something that can be had."""
        mode = self._random.choice(MODES)
        self._node.want(mode)
        self._pods_go()
        if self._cluster.drift is Drift.REPORT:  # a drifted device would rightly stay as it is
            self._cluster = replace(self._cluster, drift=Drift.MEND)
            self._restart()
        elif self._random.random() < 0.5:
            self._restart()
        results = [self._manager.round()]
        while not results[-1].ready and len(results) < 4:
            results.append(self._manager.round())
        assert results[-1].ready, [result.message for result in results]
        self._node.assert_all_in(mode)
        self._node.assert_says(mode)
        assert PAUSED not in "".join(operand_labels(self._node).values())

    def _start(self) -> Reconciler:
        return self._node.manager(self._settings, cluster=self._cluster)

    def _restart(self) -> None:
        self._manager = self._start()

    def _by_chance(self, target: Target) -> Fault | None:
        if self._random.random() >= self._fault_rate:
            return None
        self.faults += 1
        return self._random.choice(FAULTS)

    def _round(self) -> None:
        try:
            self._manager.round()
        except ApiError:
            return  # the loop says so and tries again

    def _another_label(self) -> None:
        self._node.want(self._random.choice((*MODES, "yes", None)))

    def _pod_comes(self) -> None:
        self._node.pods.delete_all()
        address = self._random.choice(self._node.addresses)
        self._node.pods.admit("vm", address)
        if self._random.random() < 0.5:
            self._node.pods.start_vm("vm", address)

    def _pods_go(self) -> None:
        self._node.pods.delete_all()

    def _operator_switches(self) -> None:
        value = self._random.choice(("true", "false"))
        operand = self._random.choice(OPERANDS)
        if PAUSED not in operand_labels(self._node)[operand]:
            self._node.api.set_label(key_of(operand), value)

    def _drift(self) -> None:
        """Somebody resets a device into another mode; nothing may be said of it in that very moment."""
        device = self._node.devices[self._node.addresses[-1]]
        if self._node.pods.list() or self._node.api.labels.get(labels.READY):
            return
        device.knobs.update({6: 0, 8: 0, 10: 0, 45: 0})
        device.reset()
        self._node.time.sleep(1.0)


@pytest.mark.parametrize("first", range(0, RUNS, AT_ONCE))
def test_field_27_whatever_the_api_server_does_the_labels_never_lie_and_all_is_well_in_the_end(
    tmp_path: Path, first: int
) -> None:
    faults = 0
    with CcNode(tmp_path, gpus=1, switches=1, labels={"zone": "a"}) as node:
        add_operands(node, *OPERANDS)
        for seed in range(first, first + AT_ONCE):
            life = Life(node, seed)
            life.live()
            life.settle()
            faults += life.faults
            node.api.forget_requests()
    assert faults > AT_ONCE / 2, "else nothing was tried"
