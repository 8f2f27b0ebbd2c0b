"""The verbs for a person at the keyboard, without Kubernetes: `status`, `set` and `knobs`."""

from typing import Any

import click

from cc_manager import report
from cc_manager.cli_options import change_options, make_setter
from cc_manager.mode import CcMode
from cc_manager.settings import LOCK_FILE, Settings
from nodelib.node import Node
from nodelib.output import echo
from nodelib.pci import PciAddress
from nodelib.settings import AddressType, dry_run_option, log_options, node_option, output_option

_device_option = click.option(
    "--device",
    "devices",
    type=AddressType(),
    multiple=True,
    help="Only this device, by its full PCI address; may be given more than once. Default: all.",
)


@click.command()
@node_option
@click.option(
    "--knobs",
    is_flag=True,
    help="Also ask the firmware which mode is staged: this writes registers of idle devices, nothing else.",
)
@output_option
@click.pass_context
def status(ctx: click.Context, /, node: Node, knobs: bool, output: str) -> None:
    """Show every GPU and NVSwitch and its mode. Writes nothing (but see --knobs): a sleeping device is left asleep."""
    setter = make_setter(ctx, node, Settings())
    if not knobs:
        echo(report.status(*setter.look_for_people()), output)
        return
    from cc_manager.lock import mode_lock

    with mode_lock(node.host.resolve(LOCK_FILE)):
        seen = setter.look_for_people(knobs=True)
    echo(report.status(*seen), output)


@click.command("set")
@click.argument("mode", type=click.Choice([mode.value for mode in CcMode]))
@node_option
@_device_option
@change_options
@dry_run_option
@output_option
@log_options
@click.pass_context
def set_mode(ctx: click.Context, /, node: Node, mode: str, settings: Settings, output: str, **told: Any) -> None:
    """Bring every device of this node to MODE by hand, without Kubernetes, and verify it.

    Ctrl-C stops before the next phase and puts back what is staged; a second one ends at once.
    """
    from cc_manager.by_hand import chosen, raise_unless_done, set_by_hand
    from cc_manager.observation import as_if_woken

    setter = make_setter(ctx, node, settings)
    if told["dry_run"]:
        only = chosen(node.scan(), told["devices"])
        observations = setter.look()
        planned = setter.plan(as_if_woken(observations), CcMode(mode), only)
        echo(report.plan(planned, observations), output)
        return
    outcome = set_by_hand(setter, CcMode(mode), told["devices"])
    echo(report.status(outcome.observations), output)
    raise_unless_done(outcome, was_stopped=setter.wakeups.stop.is_set())


@click.command()
@node_option
@_device_option
@output_option
@click.pass_context
def knobs(ctx: click.Context, /, node: Node, devices: tuple[PciAddress, ...], output: str) -> None:
    """Show every firmware knob: what is staged, and whether the host may change it.

    Asks the firmware of idle devices, which takes register writes; nothing is staged, and a sleeping device is left
    asleep.
    """
    from cc_manager import report_knobs
    from cc_manager.by_hand import chosen
    from cc_manager.lock import mode_lock

    setter = make_setter(ctx, node, Settings())
    only = chosen(node.scan(), devices)
    with mode_lock(node.host.resolve(LOCK_FILE)):
        readings = setter.read_knobs(only)
    echo(report_knobs.knobs(readings), output)
