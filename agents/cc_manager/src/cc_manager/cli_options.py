"""What the verbs of cc-manager share: the options of a change of mode, and what carries it out."""

import functools
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cc_manager.gpu.bar0 import MapWords, map_resource
from cc_manager.mode import CcMode
from cc_manager.settings import OPERATOR_NAMESPACE, ClusterSettings, Drift, PpcieExit, Settings, WhenBusy
from nodelib.errors import InvalidValue
from nodelib.node import Node
from nodelib.settings import Seconds, options

if TYPE_CHECKING:
    from cc_manager.gpu.access import Access
    from cc_manager.setter import ModeSetter
    from nodelib.wakeups import Wakeups

F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R")

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
"""Of a node or namespace; anything else would be another path in the API."""


def change_options(function: Callable[..., R]) -> Callable[..., R]:
    """How patiently a mode is changed by hand, where no pod can be evicted; the verb gets it as `settings`."""
    return _change_options(function, (WhenBusy.WAIT, WhenBusy.FAIL))


def daemon_change_options(function: Callable[..., R]) -> Callable[..., R]:
    """The same for the daemon, which can evict."""
    return _change_options(function, WhenBusy)


def _change_options(function: Callable[..., R], policies: Iterable[WhenBusy]) -> Callable[..., R]:
    @options(
        click.option(
            "--when-busy",
            envvar="WHEN_BUSY",
            default=WhenBusy.WAIT.value,
            show_default=True,
            show_envvar=True,
            type=click.Choice([policy.value for policy in policies]),
            help="What to do about a device that a virtual machine has open.",
        ),
        click.option(
            "--reset-timeout",
            "reset_timeout_s",
            envvar="RESET_TIMEOUT",
            default=60.0,
            show_default=True,
            show_envvar=True,
            type=Seconds(min=0.1),
            help="Seconds after which a device whose reset does not end is given up.",
        ),
        click.option(
            "--device-retries",
            envvar="DEVICE_RETRIES",
            default=1,
            show_default=True,
            show_envvar=True,
            type=click.IntRange(0, 10),
            help="How often a step that failed on one device is tried again there.",
        ),
        click.option(
            "--device-timeout",
            "device_timeout_s",
            envvar="DEVICE_TIMEOUT",
            default=120.0,
            show_default=True,
            show_envvar=True,
            type=Seconds(min=0.0),
            help="Seconds after which a device gets no further attempt at a step.",
        ),
        click.option(
            "--ppcie-exit",
            envvar="PPCIE_EXIT",
            default=PpcieExit.SINGLE.value,
            show_default=True,
            show_envvar=True,
            type=click.Choice([way.value for way in PpcieExit]),
            help="Leave ppcie with the reset that brings the other mode, or with a reset of its own before that.",
        ),
    )
    @functools.wraps(function)
    def with_settings(
        *args: Any,
        when_busy: str,
        reset_timeout_s: float,
        device_retries: int,
        device_timeout_s: float,
        ppcie_exit: str,
        **kwargs: Any,
    ) -> R:
        settings = Settings(
            when_busy=WhenBusy(when_busy),
            reset_timeout_s=reset_timeout_s,
            device_retries=device_retries,
            device_timeout_s=device_timeout_s,
            ppcie_exit=PpcieExit(ppcie_exit),
        )
        return function(*args, settings=settings, **kwargs)

    return with_settings


def kubeconfig_option(function: F) -> F:
    return click.option(
        "--kubeconfig",
        envvar="KUBECONFIG",
        show_envvar=True,
        type=click.Path(),
        help="How to reach the API server. Default: the pod's service account.",
    )(function)


def kube_options(function: Callable[..., R]) -> Callable[..., R]:
    """Which node this is, and how the API server is reached; the verb gets `node_name` and `kubeconfig`."""

    @click.option(
        "--node-name", envvar="NODE_NAME", show_envvar=True, required=True, help="This node's name in the cluster."
    )
    @kubeconfig_option
    @functools.wraps(function)
    def with_kube(*args: Any, node_name: str, **kwargs: Any) -> R:
        if not _NAME.fullmatch(node_name):
            raise InvalidValue(f"--node-name {node_name!r} is no node's name")
        return function(*args, node_name=node_name, **kwargs)

    return with_kube


def mode_options(function: Callable[..., R]) -> Callable[..., R]:
    """The mode without a label; the verb gets it as `default_mode`."""

    @click.option(
        "--default-mode",
        envvar="DEFAULT_CC_MODE",
        default=CcMode.ON.value,
        show_default=True,
        show_envvar=True,
        type=click.Choice([mode.value for mode in CcMode]),
        help="The mode without a label; off wherever the CPU offers no confidential computing.",
    )
    @functools.wraps(function)
    def with_mode(*args: Any, default_mode: str, **kwargs: Any) -> R:
        return function(*args, default_mode=CcMode(default_mode), **kwargs)

    return with_mode


def cluster_options(function: Callable[..., R]) -> Callable[..., R]:
    """How what runs beside us is treated; the verb gets it as `cluster`."""

    @options(
        click.option(
            "--pause-operands/--no-pause-operands",
            envvar="EVICT_OPERATOR_COMPONENTS",
            default=True,
            show_default=True,
            show_envvar=True,
            help="Whether the operator's components are paused, by their deploy labels, while the mode changes.",
        ),
        click.option(
            "--operator-namespace",
            envvar="OPERATOR_NAMESPACE",
            default=OPERATOR_NAMESPACE,
            show_default=True,
            show_envvar=True,
            help="Where those components run.",
        ),
        click.option(
            "--claim-operands",
            envvar="CLAIM_OPERANDS",
            is_flag=True,
            show_envvar=True,
            help="Put `true` once, at the start, on absent deploy labels of the DaemonSets in that namespace: "
            "without an operator nobody else does, and what has no label cannot be paused.",
        ),
        click.option(
            "--drift",
            envvar="DRIFT",
            default=Drift.MEND.value,
            show_default=True,
            show_envvar=True,
            type=click.Choice([drift.value for drift in Drift]),
            help="What to do about a device that is found in another mode than the node was brought to.",
        ),
        click.option(
            "--operand-timeout",
            "operand_timeout_s",
            envvar="OPERAND_TIMEOUT",
            default=120.0,
            show_default=True,
            show_envvar=True,
            type=Seconds(min=1, max=200),
            help="Seconds for paused components to end; then the change fails and they run again.",
        ),
        click.option(
            "--evict-timeout",
            "evict_timeout_s",
            envvar="EVICT_TIMEOUT",
            default=300.0,
            show_default=True,
            show_envvar=True,
            type=Seconds(min=1),
            help="Seconds for evicted pods to end; then the change fails.",
        ),
    )
    @functools.wraps(function)
    def with_cluster(*args: Any, operator_namespace: str, pause_operands: bool, drift: str, **kwargs: Any) -> R:
        if not _NAME.fullmatch(operator_namespace):
            raise InvalidValue(f"--operator-namespace {operator_namespace!r} is no namespace's name")
        names = ("claim_operands", "operand_timeout_s", "evict_timeout_s")
        rest = {name: kwargs.pop(name) for name in names}
        cluster = ClusterSettings(operator_namespace, pause_operands, drift=Drift(drift), **rest)
        return function(*args, cluster=cluster, **kwargs)

    return with_cluster


def make_access(ctx: click.Context, node: Node) -> "Access":
    """The way to the registers of *node*'s devices; a simulated node brings its own mapping of BAR0."""
    from cc_manager.gpu.access import Access

    map_words: MapWords = getattr(ctx.obj, "map_words", map_resource)
    return Access(node, map_words)


def make_setter(ctx: click.Context, node: Node, settings: Settings, wakeups: "Wakeups | None" = None) -> "ModeSetter":
    """What brings the devices of *node* to a mode."""
    from cc_manager.setter import ModeSetter

    return ModeSetter(node, make_access(ctx, node), settings, wakeups)
