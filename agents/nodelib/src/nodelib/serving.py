"""/healthz, /readyz and /metrics of a daemon, over HTTP, imported only where `--listen` asks for it."""

import contextlib
import itertools
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from nodelib.daemon import LoopState
from nodelib.errors import InvalidValue
from nodelib.metrics import Histogram, Metric, MetricType, counter, gauge

HUNG_AFTER_S = 300.0
"""A round that is due and has not ended for so long: the loop is not alive. No deadline within a round is that long."""
_LOOK_S = 0.5
"""Between two looks at whether to stop serving."""


def parse_listen(text: str) -> tuple[str, int]:
    """The address and port that `--listen` names. Raises InvalidValue."""
    address, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise InvalidValue(f"--listen {text!r} is not ADDRESS:PORT, as in 0.0.0.0:9400 or [::1]:9400")
    return address.strip("[]"), int(port)


@contextlib.contextmanager
def served(
    listen: str, state: Callable[[], LoopState], metrics: Callable[[], Iterable[Metric | Histogram]], prefix: str
) -> Iterator[str]:
    """Serve the three pages at *listen* while entered; gives the address as `http://host:port`.

    Raises InvalidValue if the address is wrong or taken.
    """
    registry = CollectorRegistry()
    registry.register(_Collector(lambda: (*loop_metrics(state(), prefix), *metrics())))
    host, port = parse_listen(listen)
    try:
        server = _Server(host, port, _handler(state, registry))
    except OSError as error:
        raise InvalidValue(f"--listen {listen}: {error.strerror}") from error
    thread = threading.Thread(target=server.serve_forever, args=(_LOOK_S,), name="http", daemon=True)
    thread.start()
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(1)


class _Server(ThreadingHTTPServer):
    """Listens on IPv4, or on IPv6 where the address is one."""

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), handler)

    def server_bind(self) -> None:
        """Past HTTPServer's own, which asks the resolver for this machine's name: that can take seconds."""
        socketserver.TCPServer.server_bind(self)


def _handler(state: Callable[[], LoopState], registry: CollectorRegistry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            now = state()
            match self.path:
                case "/healthz":
                    alive = time.monotonic() - now.next_round < HUNG_AFTER_S
                    self._answer(200 if alive else 503, "ok" if alive else "the loop hangs")
                case "/readyz":
                    self._answer(
                        200 if now.result.ready else 503,
                        now.result.message or ("ready" if now.result.ready else "not ready"),
                    )
                case "/metrics":
                    self._answer(200, generate_latest(registry).decode(), "text/plain; version=0.0.4")
                case _:
                    self._answer(404, "try /healthz, /readyz or /metrics")

        def _answer(self, status: int, text: str, content_type: str = "text/plain; charset=utf-8") -> None:
            body = f"{text.rstrip()}\n".encode()
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            """Probes come every few seconds: no line for each."""

    return Handler


class _Collector(Collector):
    def __init__(self, metrics: Callable[[], Iterable[Metric | Histogram]]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Family]:
        for metric in self._metrics():
            if isinstance(metric, Histogram):
                yield _histogram(metric)
                continue
            family = CounterMetricFamily if metric.type is MetricType.COUNTER else GaugeMetricFamily
            collected = family(metric.name, metric.help, labels=metric.labels)
            for labels, value in metric.values.items():
                collected.add_metric(labels, value)
            yield collected


def _histogram(metric: Histogram) -> HistogramMetricFamily:
    """Prometheus counts up to each bound, not between two."""
    counts = itertools.accumulate(metric.counts.values())
    buckets = [
        (f"{bound:g}".replace("inf", "+Inf"), float(count)) for bound, count in zip(metric.counts, counts, strict=True)
    ]
    return HistogramMetricFamily(metric.name, metric.help, buckets=buckets, sum_value=metric.total)


def loop_metrics(state: LoopState, prefix: str) -> tuple[Metric, ...]:
    """What every agent's loop tells of itself, named for the agent."""
    return (
        gauge(f"{prefix}_ready", "1 if the last round reached the desired state.", float(state.result.ready)),
        counter(f"{prefix}_rounds", "Rounds ended.", state.rounds),
        counter(f"{prefix}_failed_rounds", "Rounds that failed.", state.failures),
        gauge(f"{prefix}_last_round_seconds", "Duration of the last round.", state.last_round_s),
    )
