"""The verbs of the daemon and about it: `run`, `plan`, `restore`, `doctor`."""

import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from cc_manager.cli_options import (
    cluster_options,
    daemon_change_options,
    kube_options,
    kubeconfig_option,
    make_access,
    make_setter,
    mode_options,
)
from cc_manager.report_plan import node_plan
from cc_manager.settings import LOCK_FILE, READY_FILE, ClusterSettings, Settings
from nodelib.errors import InvalidValue, NodeError
from nodelib.node import Node
from nodelib.output import echo
from nodelib.settings import (
    DaemonSettings,
    daemon_options,
    dry_run_option,
    log_options,
    node_option,
    output_option,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cc_manager.observation import Observation
    from nodelib.doctor import Check
    from nodelib.pod_resources import PodResources

log = logging.getLogger(__name__)


@click.command()
@node_option
@kube_options
@mode_options
@click.option(
    "--ready-file",
    envvar="CC_READINESS_FILE",
    default=READY_FILE,
    show_default=True,
    show_envvar=True,
    help="Written (under --host-root) while the mode is verified; empty: none.",
)
@click.option(
    "--device-ids",
    envvar="CC_CAPABLE_DEVICE_IDS",
    default="",
    hidden=True,
    help="Of older manifests: every device is asked itself what it can do.",
)
@cluster_options
@daemon_change_options
@daemon_options
@log_options
@click.pass_context
def run(ctx: click.Context, /, node: Node, daemon: DaemonSettings, settings: Settings, **told: Any) -> None:
    """Keep the node in the mode that its label nvidia.com/cc.mode asks for, until told to stop."""
    from cc_manager.assemble import Cluster, assemble
    from cc_manager.cluster.kube_access import open_kube
    from nodelib.events import EventPoster
    from nodelib.wakeups import Wakeups, stop_on_signals

    wakeups = Wakeups()
    stop_on_signals(wakeups)
    if told["device_ids"]:
        log.info("CC_CAPABLE_DEVICE_IDS is not needed any more and ignored: every device is asked what it can do")
    settings = replace(settings, default_mode=told["default_mode"], ready_file=told["ready_file"])
    cluster: ClusterSettings = told["cluster"]
    name, kubeconfig = told["node_name"], told["kubeconfig"]
    with contextlib.closing(EventPoster(lambda: open_kube(kubeconfig), name, "cc-manager")) as events:
        outside = Cluster(open_kube(kubeconfig), name, _pod_resources(node), events.post)
        assemble(make_setter(ctx, node, settings, wakeups), outside, cluster).run(daemon)


@click.command("plan")
@node_option
@kube_options
@mode_options
@cluster_options
@output_option
@click.pass_context
def plan_verb(ctx: click.Context, /, node: Node, output: str, **told: Any) -> None:
    """Show what `run` would do now, and change nothing; sleeping devices are not looked at closer."""
    from cc_manager.cluster.kube_access import open_kube
    from cc_manager.cluster.kube_node import KubeNode
    from cc_manager.cluster.labels import desired_mode
    from cc_manager.host import has_tee

    view = KubeNode(open_kube(told["kubeconfig"]), told["node_name"]).view()
    mode = desired_mode(view.labels, told["default_mode"], host_capable=has_tee(node.sysfs))
    setter = make_setter(ctx, node, Settings())
    planned = setter.plan(setter.look(), mode)
    cluster: ClusterSettings = told["cluster"]
    echo(node_plan(planned, view, pauses=cluster.pause_operands), output)


@click.command()
@node_option
@kube_options
@dry_run_option
@log_options
def restore(node: Node, node_name: str, kubeconfig: str | None, dry_run: bool) -> None:
    """Let every operand that is paused for a change of mode run again and take our labels off, for an uninstall.

    No device is touched. Refused while a cc-manager is at work on the node.
    """
    from cc_manager.cluster import operands
    from cc_manager.cluster.kube_access import open_kube
    from cc_manager.cluster.kube_node import KubeNode
    from cc_manager.lock import mode_lock

    with mode_lock(node.host.resolve(LOCK_FILE)):
        kube_node = KubeNode(open_kube(kubeconfig), node_name)
        view = kube_node.view()
        if dry_run:
            for change in operands.plan_restore(view.labels):
                click.echo(f"would set {change}")
            click.echo("would remove our labels and annotations from the node")
            return
        kube_node.change_labels(operands.plan_restore, view)
        kube_node.forget()


@click.command()
@node_option
@click.option("--node-name", envvar="NODE_NAME", show_envvar=True, default="", help="This node's name in the cluster.")
@kubeconfig_option
@mode_options
@cluster_options
@output_option
@click.pass_context
def doctor(ctx: click.Context, /, node: Node, output: str, **told: Any) -> int:
    """Tell whether modes can be changed on this node: every check, what was found, and the remedy.

    Changes nothing and wakes nothing. Exit code 1 if a check failed.
    """
    from cc_manager.doctor import examine
    from cc_manager.doctor_cluster import check_kubelet
    from nodelib.doctor import exit_code, report

    checks, observations = examine(node, make_access(ctx, node))
    checks += tuple(_ask_cluster(node, observations, told))
    checks += (check_kubelet(_kubelet(node)),)
    echo(report(checks), output)
    return exit_code(checks)


def _ask_cluster(node: Node, observations: "tuple[Observation, ...]", told: dict[str, Any]) -> "Iterable[Check]":
    from cc_manager.cluster.kube_access import open_kube
    from cc_manager.doctor_cluster import ClusterDoctor, not_asked

    try:
        if not told["node_name"]:
            raise InvalidValue("the node's name is not known (NODE_NAME)")
        kube = open_kube(told["kubeconfig"])
    except NodeError as error:
        return (not_asked(error),)
    asking = ClusterDoctor(node, kube, told["node_name"], told["cluster"], told["default_mode"])
    return asking.examine(observations)


def _pod_resources(node: Node) -> "PodResources | None":
    if (found := _kubelet(node)) is None:
        log.warning(
            "a kubelet's pod-resources folder is not there: only devices that are open count as held, not those of "
            "pods that start; mount that folder under --host-root"
        )
    return found


def _kubelet(node: Node) -> "PodResources | None":
    """Asked by a child process each time: grpc would cost this one 28 MiB for good.

    The folder decides: the socket itself is away while a kubelet restarts.
    """
    from nodelib.pod_resources import POD_RESOURCES_SOCKET, PodResourcesChild

    socket = node.host.resolve(POD_RESOURCES_SOCKET)
    return PodResourcesChild(socket) if socket.parent.is_dir() else None
