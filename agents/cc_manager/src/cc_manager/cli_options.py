"""What the verbs of cc-manager share: the options of a change of mode, and what carries it out."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cc_manager.bar0 import MapWords, map_resource
from cc_manager.settings import Settings, WhenBusy
from nodelib.node import Node
from nodelib.settings import options

if TYPE_CHECKING:
    from cc_manager.setter import ModeSetter
    from nodelib.wakeups import Wakeups

R = TypeVar("R")


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


def make_setter(ctx: click.Context, node: Node, settings: Settings, wakeups: "Wakeups | None" = None) -> "ModeSetter":
    """What brings the devices of *node* to a mode; a simulated node brings its own mapping of BAR0."""
    from cc_manager.access import Access
    from cc_manager.setter import ModeSetter

    map_words: MapWords = getattr(ctx.obj, "map_words", map_resource)
    return ModeSetter(node, Access(node, map_words), settings, wakeups)
