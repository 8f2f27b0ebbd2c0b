"""Carrying out a plan."""

import logging

import pytest

from nodelib.errors import NodeError
from nodelib.steps import carry_out


@pytest.fixture(autouse=True)
def everything_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def test_steps_are_done_in_order_each_logged_before_it_is_done(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[tuple[str, str]] = []
    carry_out(["bind a", "bind b"], lambda step: seen.append((step, caplog.messages[-1])))
    assert seen == [("bind a", "bind a"), ("bind b", "bind b")]


def test_a_dry_run_logs_what_would_be_done_and_does_nothing(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []
    carry_out(["bind a", "bind b"], done.append, dry_run=True)
    assert done == []
    assert caplog.messages == ["would bind a", "would bind b"]


def test_what_a_step_raises_ends_the_plan() -> None:
    done: list[str] = []

    def do(step: str) -> None:
        if step == "bind b":
            raise NodeError("could not bind b")
        done.append(step)

    with pytest.raises(NodeError, match="could not bind b"):
        carry_out(["bind a", "bind b", "bind c"], do)
    assert done == ["bind a"]


def test_a_stopping_agent_begins_no_other_step(caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []
    carry_out(["bind a", "bind b", "bind c"], done.append, stopped=lambda: bool(done))
    assert done == ["bind a"]
    assert caplog.messages == ["bind a", "stopping before: bind b"]


def test_an_empty_plan_says_and_does_nothing(caplog: pytest.LogCaptureFixture) -> None:
    carry_out([], lambda step: pytest.fail(f"did {step}"))
    assert caplog.messages == []
