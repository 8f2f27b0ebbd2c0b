"""Logging: one line an event."""

import io
import json
import logging
import re
from datetime import UTC, datetime

import pytest

from nodelib import logs

pytestmark = pytest.mark.usefixtures("root_logger_as_before")


def test_json_is_one_object_a_line_with_fixed_keys() -> None:
    stream = io.StringIO()
    logs.set_up("json", "info", stream)
    logging.getLogger("vfio_manager.apply").warning('could not bind %s: "busy"\nsecond line', "0000:3b:00.0")
    logging.getLogger("nodelib").info("µ \ud800")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert list(first) == ["time", "level", "logger", "message"]
    assert (first["level"], first["logger"]) == ("warning", "vfio_manager.apply")
    assert first["message"] == 'could not bind 0000:3b:00.0: "busy"\nsecond line'
    assert second["message"] == "µ \ud800"


def test_the_time_is_utc_with_milliseconds() -> None:
    stream = io.StringIO()
    logs.set_up("json", "info", stream)
    before = datetime.now(UTC)
    logging.getLogger("a").info("now")
    written = json.loads(stream.getvalue())["time"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", written)
    assert abs((datetime.fromisoformat(written) - before).total_seconds()) < 60


def test_an_exception_stays_within_its_line() -> None:
    stream = io.StringIO()
    logs.set_up("json", "debug", stream)
    try:
        int("by a bug")
    except ValueError:
        logging.getLogger("a").exception("internal error")
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["message"].startswith("internal error")


def test_text_is_for_people() -> None:
    stream = io.StringIO()
    logs.set_up("text", "info", stream)
    logging.getLogger("a").warning("could not bind %s", "0000:3b:00.0")
    assert re.fullmatch(r"\d\d:\d\d:\d\d WARNING could not bind 0000:3b:00\.0\n", stream.getvalue())


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_what_is_below_the_level_is_not_written(log_format: str) -> None:
    stream = io.StringIO()
    logs.set_up(log_format, "warning", stream)
    logging.getLogger("a").info("quiet")
    logging.getLogger("a").error("loud")
    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()


def test_logs_go_to_standard_error_so_that_output_stays_clean(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("text", "info")
    logging.getLogger("a").info("hello")
    captured = capsys.readouterr()
    assert "hello" in captured.err
    assert captured.out == ""


def test_setting_up_twice_writes_each_line_once() -> None:
    stream = io.StringIO()
    logs.set_up("text", "info", io.StringIO())
    logs.set_up("text", "info", stream)
    logging.getLogger("a").info("once")
    assert stream.getvalue().count("once") == 1
