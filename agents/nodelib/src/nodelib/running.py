"""A daemon's whole run: its wake-ups, its pages, its loop, and what it takes back at the end."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack

from nodelib.daemon import Daemon
from nodelib.metrics import Histogram, Metric


def run_until_stopped(
    daemon: Daemon,
    *,
    sources: Sequence[AbstractContextManager[object]] = (),
    listen: str = "",
    prefix: str = "",
    metrics: Callable[[], Iterable[Metric | Histogram]] = tuple,
    at_stop: Sequence[Callable[[], None]] = (),
) -> None:
    """Run *daemon* with its *sources* of wake-ups until it is told to stop, then call *at_stop*, last one first.

    With *listen* (ADDRESS:PORT) the pages of `nodelib.serving` are up as long as it runs; *prefix* begins the names
    of the loop's own metrics. Raises InvalidValue before the first round if the address cannot be had.
    """
    with ExitStack() as stack:
        for undo in at_stop:
            stack.callback(undo)
        if listen:
            from nodelib.serving import served  # 14 MiB that only `--listen` needs

            stack.enter_context(served(listen, lambda: daemon.state, metrics, prefix))
        for source in sources:
            stack.enter_context(source)
        daemon.run()
