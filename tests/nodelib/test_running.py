"""A daemon's whole run."""

import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from nodelib.daemon import Daemon, RoundResult
from nodelib.errors import InvalidValue
from nodelib.metrics import gauge
from nodelib.running import run_until_stopped
from nodelib.wakeups import Wakeups
from tests.nodelib.samples import DEADLINE_S


@contextmanager
def source(name: str, diary: list[str]) -> Iterator[bool]:
    diary.append(f"{name} begins")
    try:
        yield True
    finally:
        diary.append(f"{name} ends")


def test_sources_live_as_long_as_the_rounds_and_what_must_be_undone_is_undone_last() -> None:
    diary: list[str] = []
    wakeups = Wakeups()

    def one_round() -> RoundResult:
        diary.append("round")
        wakeups.request_stop()
        return RoundResult(ready=True)

    run_until_stopped(
        Daemon(one_round, wakeups),
        sources=[source("events", diary), source("files", diary)],
        at_stop=[lambda: diary.append("remove the socket"), lambda: diary.append("remove the ready file")],
    )
    assert diary == [
        *("events begins", "files begins", "round", "files ends", "events ends"),
        *("remove the ready file", "remove the socket"),
    ]


def test_the_pages_are_up_while_the_daemon_runs() -> None:
    wakeups = Wakeups()
    pages: list[str] = []
    port = 0

    def one_round() -> RoundResult:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=DEADLINE_S) as answer:
            pages.append(answer.read().decode())
        wakeups.request_stop()
        return RoundResult(ready=True)

    port = free_port()
    run_until_stopped(
        Daemon(one_round, wakeups),
        listen=f"127.0.0.1:{port}",
        prefix="agent",
        metrics=lambda: [gauge("agent_devices", "Devices.", 8)],
    )
    (page,) = pages
    assert "agent_devices 8.0" in page
    assert "agent_rounds_total 0.0" in page


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_an_address_that_cannot_be_had_ends_the_run_before_the_first_round_and_undoes() -> None:
    diary: list[str] = []
    daemon = Daemon(lambda: RoundResult(ready=True), Wakeups())
    with pytest.raises(InvalidValue):
        run_until_stopped(daemon, listen="nowhere", at_stop=[lambda: diary.append("undone")])
    assert daemon.state.rounds == 0
    assert diary == ["undone"]
