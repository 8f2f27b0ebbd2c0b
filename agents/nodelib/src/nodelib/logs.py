"""Logging: one line an event, as text for people or JSON for machines. Set up once, in `cli`."""

import json
import logging
import sys
import time
from typing import TextIO


class _JsonLine(logging.Formatter):
    """One JSON object a line with fixed keys: time (UTC), level, logger, message."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return json.dumps(
            {
                "time": f"{seconds}.{int(record.msecs):03d}Z",
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": record.getMessage(),
            }
        )


def set_up(log_format: str, level: str, stream: TextIO | None = None) -> None:
    """Send every log record of the process to *stream* (standard error), in *log_format* `text` or `json`."""
    handler = logging.StreamHandler(stream or sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S")
    handler.setFormatter(_JsonLine() if log_format == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
