"""The verbs of the daemon: `run`."""

from dataclasses import replace

import click

from cc_manager.cli_options import change_options, make_setter
from cc_manager.mode import CcMode
from cc_manager.settings import READY_FILE, Settings
from nodelib.errors import InvalidValue
from nodelib.node import Node
from nodelib.settings import DaemonSettings, daemon_options, log_options, node_option


@click.command()
@node_option
@click.option(
    "--node-name", envvar="NODE_NAME", show_envvar=True, required=True, help="This node's name in the cluster."
)
@click.option(
    "--default-mode",
    envvar="DEFAULT_CC_MODE",
    default=CcMode.ON.value,
    show_default=True,
    show_envvar=True,
    type=click.Choice([mode.value for mode in CcMode]),
    help="The mode without a label; off wherever the CPU offers no confidential computing.",
)
@click.option(
    "--kubeconfig",
    envvar="KUBECONFIG",
    show_envvar=True,
    type=click.Path(),
    help="How to reach the API server. Default: the pod's service account.",
)
@click.option(
    "--ready-file",
    envvar="CC_READINESS_FILE",
    default=READY_FILE,
    show_default=True,
    show_envvar=True,
    help="Written (under --host-root) while the mode is verified; empty: none.",
)
@change_options
@daemon_options
@log_options
@click.pass_context
def run(
    ctx: click.Context,
    /,
    node: Node,
    daemon: DaemonSettings,
    settings: Settings,
    node_name: str,
    kubeconfig: str | None,
    **told: str,
) -> None:
    """Keep the node in the mode that its label nvidia.com/cc.mode asks for, until told to stop."""
    from cc_manager.kube_node import KubeNode, open_kube
    from cc_manager.reconcile import Reconciler
    from nodelib.wakeups import Wakeups, stop_on_signals

    wakeups = Wakeups()
    stop_on_signals(wakeups)
    settings = replace(settings, default_mode=CcMode(told["default_mode"]), ready_file=told["ready_file"])
    if "/" in node_name or not node_name:
        raise InvalidValue(f"--node-name {node_name!r} is no node's name")
    kube_node = KubeNode(open_kube(kubeconfig), node_name)
    Reconciler(make_setter(ctx, node, settings, wakeups), kube_node).run(daemon)
