"""`doctor` towards the cluster: whether the API server and the kubelet answer, and what this node's labels say."""

from collections.abc import Iterable, Iterator, Sequence

from cc_manager.cluster import labels, operands
from cc_manager.cluster.kube_node import KubeNode
from cc_manager.cluster.labels import NodeView
from cc_manager.cluster.operand_pods import Pod
from cc_manager.cluster.rights import Right, rights
from cc_manager.host import has_tee
from cc_manager.mode import CcMode
from cc_manager.observation import Observation
from cc_manager.settings import ClusterSettings
from nodelib.doctor import Check, failed, passed, warned
from nodelib.errors import InvalidValue, NodeError
from nodelib.kube import ApiError, Kube
from nodelib.node import Node
from nodelib.pod_resources import PodResources, PodResourcesError

_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_NOT_ASKED = "give --node-name and --kubeconfig, or run it in the DaemonSet's pod"


class ClusterDoctor:
    """Asks the API server, as cc-manager would, and changes nothing."""

    def __init__(self, node: Node, kube: Kube, node_name: str, settings: ClusterSettings, default: CcMode) -> None:
        self._node = node
        self._kube = kube
        self._node_name = node_name
        self._settings = settings
        self._default = default

    def examine(self, observations: Sequence[Observation]) -> Iterator[Check]:
        """Every check that the API server answers; *observations* are the devices as they are."""
        try:
            view = KubeNode(self._kube, self._node_name).view()
        except ApiError as error:
            remedy = "look at the node's name, the kubeconfig or the service account, and the network"
            yield failed("api", str(error), remedy)
            return
        yield passed("api", f"answers, and has node {self._node_name}")
        yield self._rights()
        yield self._label(view, observations)
        yield _operands(view)

    def _rights(self) -> Check:
        asked = rights(self._settings.namespace, pauses=self._settings.pause_operands, claims=True, evicts=True)
        try:
            missing = [right for right in asked if not self._is_held(right)]
        except ApiError as error:
            return warned("rights", f"not known: {error}", "ask with kubectl auth can-i --as the service account")
        if needed := [right for right in missing if right.is_needed]:
            texts = ", ".join(f"{right} (to {right.why})" for right in needed)
            return failed("rights", f"missing: {texts}", "give them to the service account: deploy/base has them all")
        if missing:
            texts = "; ".join(f"{right}: {right.without}" for right in missing)
            return warned("rights", f"missing, and can be done without: {texts}", "give them, if that is not wanted")
        return passed("rights", f"all {len(asked)} are held")

    def _is_held(self, right: Right) -> bool:
        resource, _, subresource = right.resource.partition("/")
        attributes = {"verb": right.verb, "group": right.group, "resource": resource, "namespace": right.namespace}
        spec = {"resourceAttributes": {**attributes, **({"subresource": subresource} if subresource else {})}}
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": spec}
        status = self._kube.post(_REVIEWS, body).get("status")
        return isinstance(status, dict) and status.get("allowed") is True

    def _label(self, view: NodeView, observations: Sequence[Observation]) -> Check:
        try:
            mode = labels.desired_mode(view.labels, self._default, host_capable=has_tee(self._node.sysfs))
        except InvalidValue as error:
            return failed("label", str(error), "set the label to one of them, or remove it")
        said = f"{view.labels.get(labels.STATE, 'absent')}/{view.labels.get(labels.READY) or 'empty'}"
        away = [one for one in observations if one.active is not None and not one.is_in(mode)]
        text = f"wanted {mode}, published {said}"
        if away:
            remedy = f"see the annotation {labels.MESSAGE}, the Events of the node and cc-manager's log"
            return warned("label", f"{text}, but {len(away)} devices are in another mode: {away[0].address}", remedy)
        if all(one.active is None for one in observations):
            return passed("label", f"{text}; the mode of no device is known here")
        if view.labels.get(labels.STATE) != mode.value:
            return warned("label", f"{text}, and the devices are in it", "see that cc-manager runs on this node")
        return passed("label", f"{text}, and what can be read of the devices agrees")


def check_kubelet(pod_resources: PodResources | None) -> Check:
    """Whether pods that hold devices can be found before a change."""
    if pod_resources is None:
        remedy = "mount the kubelet's pod-resources folder under --host-root"
        return warned("pod-resources", "no folder: pods that were given a device are seen when its VM runs", remedy)
    try:
        holding = {(one.namespace, one.pod) for one in pod_resources.list() if one.resource.startswith("nvidia.com/")}
    except PodResourcesError as error:
        return failed("pod-resources", str(error), "no change of mode is begun until it answers")
    pods = ", ".join(str(Pod(*key)) for key in sorted(holding))
    return passed("pod-resources", f"the kubelet answers; pods with devices: {pods or 'none'}")


def not_asked(error: NodeError) -> Check:
    """Without a way to the API server: on a node that is set up by hand there is none."""
    return warned("api", f"not asked: {error}", _NOT_ASKED)


def _operands(view: NodeView) -> Check:
    if paused := operands.paused_operands(view.labels):
        if labels.is_changing(view.annotations):
            return warned("operands", f"paused for a change of mode: {_listed(paused)}", "wait until it has ended")
        remedy = "let cc-manager run, which undoes it, or run: cc-manager restore"
        return failed("operands", f"paused, and no change is under way: {_listed(paused)}", remedy)
    if too_long := operands.unpausable(view.labels):
        return failed("operands", f"cannot be paused: {_listed(too_long)}", "shorten their label to 37 characters")
    running = operands.plan_pause(view.labels)
    return passed("operands", f"none is paused; a change of mode pauses {len(running)}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
