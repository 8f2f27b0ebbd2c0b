"""The command line of device-plugin."""

import contextlib
import logging
import os
from typing import Any

import click

from device_plugin.settings import (
    BUSY_WAIT_S,
    HEALTH_INTERVAL_S,
    KUBELET_SOCKET,
    CdiMode,
    DeviceListStrategy,
    Settings,
    WhenHeld,
    variables_without_meaning,
)
from nodelib.events import open_poster
from nodelib.lean_grpc import import_grpc
from nodelib.node import Node
from nodelib.output import echo
from nodelib.pod_resources import POD_RESOURCES_SOCKET, PodResourcesChild
from nodelib.settings import (
    DaemonSettings,
    Seconds,
    daemon_options,
    log_options,
    naming_options,
    node_option,
    options,
    output_option,
    version_option,
)
from nodelib.vfio import Naming

log = logging.getLogger(__name__)

# What one verb alone needs is imported in it: `run` keeps what it once imported for as long as it lives.

advertise_options = options(
    click.option(
        "--cdi",
        envvar="CDI",
        default=CdiMode.WRITE.value,
        show_default=True,
        show_envvar=True,
        type=click.Choice([mode.value for mode in CdiMode]),
        help="Write the CDI specs; or hold back each device that kata-manager's specs do not resolve; or neither.",
    ),
    click.option(
        "--kubelet-socket",
        envvar="KUBELET_SOCKET",
        default=KUBELET_SOCKET,
        show_default=True,
        show_envvar=True,
        help="The kubelet's registration socket, under --host-root; ours go beside it.",
    ),
)
"""What is advertised, and where: the same for every verb, so that all of them speak of the same."""

allocate_options = options(
    click.option(
        "--health-interval",
        "health_interval_s",
        envvar="HEALTH_INTERVAL",
        default=HEALTH_INTERVAL_S,
        show_default=True,
        show_envvar=True,
        type=Seconds(min=0.1),
        help="Seconds after which the devices' health is looked at without any event.",
    ),
    click.option(
        "--busy-wait",
        "busy_wait_s",
        envvar="BUSY_WAIT",
        default=BUSY_WAIT_S,
        show_default=True,
        show_envvar=True,
        type=Seconds(min=0, max=60),
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
    click.option(
        "--device-list-strategy",
        "strategy",
        envvar="DEVICE_LIST_STRATEGY",
        default=DeviceListStrategy.DEVICE_SPECS.value,
        show_default=True,
        show_envvar=True,
        type=click.Choice([choice.value for choice in DeviceListStrategy]),
        help="Answer with device nodes; or with their CDI names too, for the container runtime. Kata needs neither.",
    ),
    click.option(
        "--pass-addresses",
        envvar="PASS_ADDRESSES",
        is_flag=True,
        show_envvar=True,
        help="Tell containers their devices' PCI addresses in variables like PCI_RESOURCE_NVIDIA_COM_PGPU (KubeVirt).",
    ),
)


def parse_settings(naming: Naming, *, cdi: str, kubelet_socket: str, **allocating: Any) -> Settings:
    """The settings that the options come to. Raises InvalidValue."""
    if allocating:
        allocating["when_held"] = WhenHeld(allocating["when_held"])
        allocating["strategy"] = DeviceListStrategy(allocating["strategy"])
    return Settings(naming, CdiMode(cdi), kubelet_socket, **allocating)


@click.group()
@version_option("cgpu-device-plugin")
def cli() -> None:
    """Advertise this node's assignable GPUs to the kubelet, and allocate them.

    Without a verb: run. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not supported on this node.
    """


@cli.command("list")
@node_option
@naming_options
@advertise_options
@output_option
@log_options
def list_devices(node: Node, naming: Naming, output: str, **advertising: str) -> None:
    """Show what `run` would advertise, what not, and why. Asks neither the kubelet nor any plugin."""
    from device_plugin import report
    from device_plugin.outside import Outside

    devices, inventory = Outside(node, parse_settings(naming, **advertising)).devices()
    show = report.for_people if output == "table" else report.for_programs
    echo(show(devices, inventory), output)


@cli.command()
@node_option
@naming_options
@advertise_options
@output_option
@log_options
def status(node: Node, naming: Naming, output: str, **advertising: str) -> None:
    """Show each device as `list` does, and whether kubelet and plugin are there for it now."""
    from device_plugin import report
    from device_plugin.endpoint import answers
    from device_plugin.inventory import by_resource
    from device_plugin.outside import Outside

    outside = Outside(node, parse_settings(naming, **advertising))
    devices, inventory = outside.devices()
    served = {resource: outside.is_served(resource) for resource in by_resource(devices)}
    kubelet = outside.kubelet_socket
    show = report.status_for_people if output == "table" else report.status_for_programs
    echo(show(devices, inventory, report.Life(served, str(kubelet), is_there=answers(kubelet))), output)


@cli.command()
@node_option
@naming_options
@advertise_options
@output_option
@log_options
def plan(node: Node, naming: Naming, output: str, **advertising: str) -> None:
    """Show what `run` would do if it started now, and change nothing."""
    from device_plugin import report
    from device_plugin.outside import Outside

    outside = Outside(node, parse_settings(naming, **advertising))
    devices, _ = outside.devices()
    echo(report.plan(outside.plan(devices)), output)


@cli.command()
@node_option
@naming_options
@advertise_options
@click.option(
    "--pod-resources-socket",
    envvar="POD_RESOURCES_SOCKET",
    default=POD_RESOURCES_SOCKET,
    show_default=True,
    show_envvar=True,
    help="The kubelet's socket for asking which pod has which device, under --host-root.",
)
@output_option
@log_options
def doctor(node: Node, naming: Naming, pod_resources_socket: str, output: str, **advertising: str) -> int:
    """Tell whether this node can work: every check, what was found, and the remedy. Exit code 1 if one failed."""
    from device_plugin.doctor import examine
    from nodelib.doctor import exit_code, report

    settings = parse_settings(naming, **advertising)
    checks = examine(node, settings, PodResourcesChild(node.host.resolve(pod_resources_socket)))
    echo(report(checks), output)
    return exit_code(checks)


@cli.command()
@node_option
@naming_options
@advertise_options
@allocate_options
@click.option(
    "--node-name",
    envvar="NODE_NAME",
    default="",
    show_envvar=True,
    help="This node's name in the cluster, for Kubernetes Events; without it none are posted.",
)
@daemon_options
@log_options
def run(node: Node, naming: Naming, node_name: str, daemon: DaemonSettings, **told: Any) -> None:
    """Advertise and allocate until told to stop. A node without a device, or still without a kubelet, is no error."""
    settings = parse_settings(naming, **told)
    node.sysfs.slow_reader.start()  # it gets ready while we import
    import_grpc()
    from device_plugin.reconcile import Plugin
    from nodelib.wakeups import Wakeups, stop_on_signals

    wakeups = Wakeups()
    stop_on_signals(wakeups)
    # What is no message of the contract is refused by grpc, which would log a traceback of its own for it.
    logging.getLogger("grpc._common").setLevel(logging.CRITICAL)
    if said := variables_without_meaning(os.environ):
        log.warning("%s", said)
    with contextlib.closing(open_poster(os.environ, node_name, "device-plugin")) as events:
        Plugin(node, settings, wakeups, events.post).run(daemon)
