"""The command line of device-plugin."""

import click

from device_plugin import report
from device_plugin.settings import BUSY_WAIT_S, HEALTH_INTERVAL_S, KUBELET_SOCKET, CdiMode, Settings, WhenHeld
from nodelib.lean_grpc import import_grpc
from nodelib.node import Node
from nodelib.output import echo
from nodelib.settings import (
    DaemonSettings,
    daemon_options,
    log_options,
    naming_options,
    node_option,
    options,
    output_option,
    version_option,
)
from nodelib.vfio import Naming, assignable_devices

cdi_option = click.option(
    "--cdi",
    envvar="CDI",
    default=CdiMode.WRITE.value,
    show_default=True,
    show_envvar=True,
    type=click.Choice([mode.value for mode in CdiMode]),
    help="Write the CDI specs; or hold back each device whose name kata-manager's specs do not resolve; or neither.",
)

plugin_options = options(
    click.option(
        "--kubelet-socket",
        envvar="KUBELET_SOCKET",
        default=KUBELET_SOCKET,
        show_default=True,
        show_envvar=True,
        help="The kubelet's registration socket, under --host-root; ours go beside it.",
    ),
    click.option(
        "--health-interval",
        "health_interval_s",
        envvar="HEALTH_INTERVAL",
        default=HEALTH_INTERVAL_S,
        show_default=True,
        show_envvar=True,
        type=click.FloatRange(min=0.1),
        help="Seconds after which the devices' health is looked at without any event.",
    ),
    click.option(
        "--busy-wait",
        "busy_wait_s",
        envvar="BUSY_WAIT",
        default=BUSY_WAIT_S,
        show_default=True,
        show_envvar=True,
        type=click.FloatRange(min=0, max=60),
        help="Seconds that Allocate waits for a device that is still in use; all pods of the node wait with it.",
    ),
    click.option(
        "--when-held",
        envvar="WHEN_HELD",
        default=WhenHeld.ALLOW.value,
        show_default=True,
        show_envvar=True,
        type=click.Choice([choice.value for choice in WhenHeld]),
        help="Then give the device away with a warning, or fail the pod.",
    ),
)


@click.group()
@version_option("cgpu-device-plugin")
def cli() -> None:
    """Advertise this node's assignable GPUs to the kubelet, and allocate them.

    Without a verb: run. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not supported on this node.
    """


@cli.command("list")
@node_option
@naming_options
@cdi_option
@output_option
@log_options
def list_devices(node: Node, naming: Naming, cdi: str, output: str) -> None:
    """Show what `run` would advertise, what not, and why. Asks neither the kubelet nor any device."""
    inventory = node.scan(with_config=True)
    devices = assignable_devices(inventory, naming)
    if CdiMode(cdi) is CdiMode.REQUIRE:  # with `write` the daemon would first write what is missing
        from device_plugin.specs import Specs

        devices, _ = Specs(node.host, CdiMode.REQUIRE).check(devices)
    show = report.for_people if output == "table" else report.for_programs
    echo(show(devices, inventory), output)


cli.add_command(list_devices, "status")


@cli.command()
@node_option
@naming_options
@cdi_option
@plugin_options
@daemon_options
@log_options
def run(  # noqa: PLR0913 - one parameter an option
    node: Node,
    naming: Naming,
    daemon: DaemonSettings,
    *,
    cdi: str,
    kubelet_socket: str,
    health_interval_s: float,
    busy_wait_s: float,
    when_held: str,
) -> None:
    """Advertise and allocate until told to stop. A node without a device, or still without a kubelet, is no error."""
    settings = Settings(naming, CdiMode(cdi), kubelet_socket, health_interval_s, busy_wait_s, WhenHeld(when_held))
    import_grpc()
    from device_plugin.reconcile import Plugin
    from nodelib.wakeups import Wakeups, stop_on_signals

    wakeups = Wakeups()
    stop_on_signals(wakeups)
    Plugin(node, settings, wakeups).run(daemon)
