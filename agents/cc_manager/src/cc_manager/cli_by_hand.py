"""The verbs for a person at the keyboard, without Kubernetes: `status` and `set`."""

import logging
import time
from typing import TYPE_CHECKING

import click

from cc_manager import report
from cc_manager.cli_options import change_options, make_setter
from cc_manager.mode import CcMode
from cc_manager.settings import LOCK_FILE, Settings
from nodelib.errors import NodeError, NotSupported
from nodelib.node import Node
from nodelib.output import echo
from nodelib.settings import dry_run_option, log_options, node_option, output_option

if TYPE_CHECKING:
    from cc_manager.setter import Outcome

log = logging.getLogger(__name__)

_BUSY_POLL_S = 2.0


@click.command()
@node_option
@output_option
@click.pass_context
def status(ctx: click.Context, /, node: Node, output: str) -> None:
    """Show every GPU and NVSwitch and its mode. Writes nothing: a sleeping device is left asleep."""
    echo(report.status(make_setter(ctx, node, Settings()).look()), output)


@click.command("set")
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

    setter = make_setter(ctx, node, settings)
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


def _raise_unless_done(outcome: "Outcome") -> None:
    if outcome.ok:
        return
    text = "\n".join((f"the devices are not all in mode {outcome.mode}:", *outcome.reasons))
    unsupported = all(one.problem and one.problem.code == "unsupported" for one in outcome.observations)
    raise (NotSupported if unsupported else NodeError)(text)
