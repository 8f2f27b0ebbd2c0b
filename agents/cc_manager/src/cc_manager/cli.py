"""The command line of cc-manager."""

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cc_manager import report
from cc_manager.bar0 import MapWords, map_resource
from cc_manager.mode import CcMode
from cc_manager.settings import LOCK_FILE, READY_FILE, Settings, WhenBusy
from nodelib.errors import InvalidValue, NodeError, NotSupported
from nodelib.node import Node
from nodelib.output import echo
from nodelib.settings import (
    DaemonSettings,
    daemon_options,
    dry_run_option,
    log_options,
    node_option,
    options,
    output_option,
    version_option,
)

if TYPE_CHECKING:
    from cc_manager.setter import ModeSetter, Outcome
    from nodelib.wakeups import Wakeups

log = logging.getLogger(__name__)
R = TypeVar("R")

_BUSY_POLL_S = 2.0


def change_options(function: Callable[..., R]) -> Callable[..., R]:
    """How patiently a mode is changed; the verb gets it as `settings`."""

    @options(
        click.option(
            "--when-busy",
            envvar="WHEN_BUSY",
            default=WhenBusy.WAIT.value,
            show_default=True,
            show_envvar=True,
            type=click.Choice([policy.value for policy in WhenBusy]),
            help="What to do about a device that a virtual machine has open.",
        ),
        click.option(
            "--reset-timeout",
            "reset_timeout_s",
            envvar="RESET_TIMEOUT",
            default=60.0,
            show_default=True,
            show_envvar=True,
            type=click.FloatRange(min=0.1),
            help="Seconds after which a device whose reset does not end is given up.",
        ),
    )
    @functools.wraps(function)
    def with_settings(*args: Any, when_busy: str, reset_timeout_s: float, **kwargs: Any) -> R:
        settings = Settings(when_busy=WhenBusy(when_busy), reset_timeout_s=reset_timeout_s)
        return function(*args, settings=settings, **kwargs)

    return with_settings


@click.group()
@version_option("cgpu-cc-manager")
def cli() -> None:
    """Set the confidential-computing mode of this node's NVIDIA GPUs.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not supported on this node.
    """


@cli.command()
@node_option
@output_option
@click.pass_context
def status(ctx: click.Context, /, node: Node, output: str) -> None:
    """Show every GPU and NVSwitch and its mode. Writes nothing: a sleeping device is left asleep."""
    echo(report.status(_setter(ctx, node, Settings()).look()), output)


@cli.command("set")
@click.argument("mode", type=click.Choice([mode.value for mode in CcMode]))
@node_option
@change_options
@dry_run_option
@output_option
@log_options
@click.pass_context
def set_mode(ctx: click.Context, /, node: Node, mode: str, settings: Settings, output: str, dry_run: bool) -> None:
    """Bring every device of this node to MODE by hand, without Kubernetes, and verify it."""
    from cc_manager.lock import mode_lock
    from cc_manager.plan import plan_transition

    setter = _setter(ctx, node, settings)
    if dry_run:
        echo(report.plan(plan_transition(setter.look(), CcMode(mode))), output)
        return
    with mode_lock(node.host.resolve(LOCK_FILE)):
        outcome = setter.set(CcMode(mode))
        while outcome.waits:
            log.info("waiting: %s", "; ".join(outcome.reasons))
            time.sleep(_BUSY_POLL_S)
            outcome = setter.set(CcMode(mode))
    if not outcome.observations:
        raise NotSupported("no NVIDIA GPU on this node")
    echo(report.status(outcome.observations), output)
    _raise_unless_done(outcome)


@cli.command()
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
    Reconciler(_setter(ctx, node, settings, wakeups), kube_node).run(daemon)


def _setter(ctx: click.Context, node: Node, settings: Settings, wakeups: "Wakeups | None" = None) -> "ModeSetter":
    from cc_manager.access import Access
    from cc_manager.setter import ModeSetter

    map_words: MapWords = getattr(ctx.obj, "map_words", map_resource)
    return ModeSetter(node, Access(node, map_words), settings, wakeups)


def _raise_unless_done(outcome: "Outcome") -> None:
    if outcome.ok:
        return
    text = "\n".join((f"the devices are not all in mode {outcome.mode}:", *outcome.reasons))
    unsupported = all(one.problem and one.problem.code == "unsupported" for one in outcome.observations)
    raise (NotSupported if unsupported else NodeError)(text)
