"""/healthz, /readyz and /metrics, over real HTTP. DESIGN section 2, health and metrics."""

import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nodelib.daemon import LoopState, RoundResult
from nodelib.errors import InvalidValue
from nodelib.metrics import Histogram, Metric, MetricType, counter, gauge
from nodelib.serving import HUNG_AFTER_S, parse_listen, served
from tests.nodelib.samples import DEADLINE_S

READY = RoundResult(ready=True)


def state(result: RoundResult = READY, silent_s: float = 0.0, **counts: int) -> LoopState:
    return LoopState(result=result, next_round=time.monotonic() - silent_s, **counts)


@dataclass
class Agent:
    """What the pages ask; a test changes it while they are up."""

    state: LoopState = field(default_factory=state)
    metrics: Sequence[Metric] = ()

    @contextmanager
    def serving(self, listen: str = "127.0.0.1:0") -> Iterator[str]:
        with served(listen, lambda: self.state, lambda: self.metrics, "agent") as url:
            yield url


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_living_loop_is_healthy_although_it_is_not_ready() -> None:
    """A node that waits must never stall a rollout."""
    agent = Agent(state(RoundResult(ready=False, message="0000:3b:00.0 is in use")))
    with agent.serving() as url:
        assert get(f"{url}/healthz") == (200, "ok\n")
        assert get(f"{url}/readyz") == (503, "0000:3b:00.0 is in use\n")
        agent.state = state()
        assert get(f"{url}/readyz") == (200, "ready\n")


def test_a_round_that_gave_no_reason_is_told_as_not_ready() -> None:
    with Agent(state(RoundResult(ready=False))).serving() as url:
        assert get(f"{url}/readyz") == (503, "not ready\n")


def test_before_the_first_round_a_daemon_is_healthy_and_not_ready() -> None:
    with Agent(LoopState(next_round=time.monotonic())).serving() as url:
        assert get(f"{url}/healthz")[0] == 200
        assert get(f"{url}/readyz") == (503, "the first round has not ended yet\n")


def test_a_silent_loop_is_not_healthy() -> None:
    with Agent(state(silent_s=HUNG_AFTER_S + 1)).serving() as url:
        assert get(f"{url}/healthz") == (503, "the loop hangs\n")


def test_metrics_are_those_of_the_loop_and_of_the_agent() -> None:
    labelled = Metric(
        "agent_device_healthy",
        "1 if healthy.",
        MetricType.GAUGE,
        {("0000:3b:00.0",): 1, ('a"b\\c\n',): 0},
        ("address",),
    )
    agent = Agent(state(rounds=7, failures=2), (gauge("agent_devices", "Devices.", 8), labelled))
    with agent.serving() as url:
        text = get(f"{url}/metrics")[1]
        agent.metrics = (counter("agent_binds", "Binds.", 3),)
        later = get(f"{url}/metrics")[1]
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert values == {
        ("agent_ready",): 1,
        ("agent_rounds_total",): 7,
        ("agent_failed_rounds_total",): 2,
        ("agent_last_round_seconds",): 0,
        ("agent_devices",): 8,
        ("agent_device_healthy", "0000:3b:00.0"): 1,
        ("agent_device_healthy", 'a"b\\c\n'): 0,
    }
    assert "agent_binds_total 3.0" in later
    assert "agent_devices" not in later


def test_any_other_page_says_which_there_are() -> None:
    with Agent().serving() as url:
        assert get(f"{url}/") == (404, "try /healthz, /readyz or /metrics\n")


def test_probes_leave_no_line(capfd: pytest.CaptureFixture[str]) -> None:
    with Agent().serving() as url:
        get(f"{url}/healthz")
        get(f"{url}/nothing")
    assert capfd.readouterr() == ("", "")


def test_a_taken_port_is_refused_with_the_flag_and_free_again_afterwards() -> None:
    with Agent().serving() as url:
        taken = url.removeprefix("http://")
        with pytest.raises(InvalidValue, match=f"--listen {taken}: Address already in use"), Agent().serving(taken):
            pytest.fail("two servers at one address")
    with Agent().serving(taken) as again:
        assert get(f"{again}/healthz")[0] == 200


def test_an_address_that_is_not_the_machines_is_refused_with_the_flag() -> None:
    with pytest.raises(InvalidValue, match=r"--listen 192\.0\.2\.1:9400: "), Agent().serving("192.0.2.1:9400"):
        pytest.fail("an address of the documentation")


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback address")
def test_an_ipv6_address_is_served_as_the_flag_promises() -> None:
    with Agent().serving("[::1]:0") as url:
        assert url.startswith("http://[::1]:")
        assert get(f"{url}/healthz")[0] == 200


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("0.0.0.0:9400", ("0.0.0.0", 9400)),
        (":9400", ("", 9400)),
        ("[::1]:9400", ("::1", 9400)),
        ("localhost:0", ("localhost", 0)),
        ("127.0.0.1:65535", ("127.0.0.1", 65535)),
    ],
)
def test_an_address_and_a_port_are_told_apart(text: str, parsed: tuple[str, int]) -> None:
    assert parse_listen(text) == parsed


@pytest.mark.parametrize("text", ["9400", "", "localhost", "localhost:", "localhost:http", "a:65536", "a:-1", "a:²"])
def test_what_is_no_address_and_port_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(InvalidValue, match=r"is not ADDRESS:PORT, as in 0\.0\.0\.0:9400") as caught:
        parse_listen(text)
    assert repr(text) in str(caught.value)


def test_a_histogram_is_served_with_cumulative_buckets() -> None:
    durations = Histogram("cc_manager_duration_seconds", "How long.", {0.5: 2, 10.0: 1, float("inf"): 1}, 100.25)
    with served("127.0.0.1:0", LoopState, lambda: (durations,), "cc_manager") as url:
        _, text = get(f"{url}/metrics")
    buckets = [line for line in text.splitlines() if line.startswith("cc_manager_duration_seconds")]
    assert buckets == [
        'cc_manager_duration_seconds_bucket{le="0.5"} 2.0',
        'cc_manager_duration_seconds_bucket{le="10"} 3.0',
        'cc_manager_duration_seconds_bucket{le="+Inf"} 4.0',
        "cc_manager_duration_seconds_count 4.0",
        "cc_manager_duration_seconds_sum 100.25",
    ]
