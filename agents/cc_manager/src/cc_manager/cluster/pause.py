"""Operands paused, seen gone, and run again: the effects around the deploy labels of the node."""

from collections.abc import Callable
from functools import partial

from cc_manager.cluster import operands
from cc_manager.cluster.kube_node import KubeNode
from cc_manager.cluster.labels import NodeView
from cc_manager.cluster.operand_pods import pods_of
from cc_manager.cluster.pods import FORBIDDEN, KubePods
from cc_manager.look import Look
from cc_manager.safety import not_put_back
from cc_manager.settings import ClusterSettings
from nodelib.kube import ApiError
from nodelib.pci import PciAddress


class Pause:
    """Pauses the operands of the node by its labels, and undoes that, whoever began it."""

    def __init__(
        self, kube_node: KubeNode, pods: KubePods, settings: ClusterSettings, stopped: Callable[[], bool]
    ) -> None:
        self._kube_node = kube_node
        self._pods = pods
        self._settings = settings
        self._stopped = stopped
        self._may_claim = settings.claim_operands

    def claim(self, view: NodeView) -> NodeView:
        """Put `true` on the absent labels of the DaemonSets in our own namespace, once in a process. Raises ApiError.

        Once, because an administrator who takes a label away afterwards means it.
        """
        if not self._may_claim:
            return view
        own = frozenset(operand for one in self._pods.daemon_sets() for operand in one.operands)
        view = self._kube_node.change_labels(partial(operands.plan_claim, own=own), view)
        self._may_claim = False
        return view

    def begin(self, view: NodeView) -> tuple[NodeView, str]:
        """Pause every operand that runs and wait until its pods are gone; why that is not so, if it is not.

        Raises ApiError.
        """
        if not self._settings.pause_operands:
            return view, ""
        if too_long := operands.unpausable(view.labels):
            keys = ", ".join(map(operands.key_of, too_long))
            return view, f"operands cannot be paused: the value of {keys} has more than 37 characters; shorten it"
        if not operands.plan_pause(view.labels) and not operands.paused_operands(view.labels):
            return view, ""
        try:
            self._pods.of_installation()  # what cannot be seen gone must not be paused
        except ApiError as error:
            if error.status != FORBIDDEN:
                raise
            return view, f"{error}; allow `list` on `pods` there, or switch pausing off (EVICT_OPERATOR_COMPONENTS)"
        view = self._kube_node.change_labels(operands.plan_pause, view)
        return view, self._wait_for_pods(operands.paused_operands(view.labels))

    @staticmethod
    def is_on(view: NodeView) -> bool:
        """Whether an operand of the node is paused for a change of mode."""
        return bool(operands.paused_operands(view.labels))

    def end(self, view: NodeView, look: Look) -> tuple[NodeView, tuple[PciAddress, ...]]:
        """Have every paused operand run again; not while the next reset may change the mode of the devices given.

        Raises ApiError.
        """
        if not operands.paused_operands(view.labels):
            return view, ()
        if unsafe := not_put_back(look.observations):
            return view, unsafe
        return self._kube_node.change_labels(operands.plan_restore, view), ()

    def _wait_for_pods(self, paused: tuple[str, ...]) -> str:
        chosen = partial(pods_of, paused, daemon_sets=self._pods.daemon_sets())
        timeout_s = self._settings.operand_timeout_s
        left = self._pods.wait_until_gone(chosen, timeout_s, self._stopped)
        return f"operands did not end within {timeout_s:g} s: {', '.join(map(str, left))}" if left else ""
