"""What the demo prints: steps as they begin and end, what the agents log meanwhile, and a table at the end."""

import logging
import os
import re
import shutil
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


def _width() -> int:
    return max(60, min(100, shutil.get_terminal_size((80, 24)).columns))


def _one_line(text: str) -> str:
    """*text*, set in, on one line of the terminal."""
    return textwrap.shorten(text, _width() - 4, placeholder=" ...")


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the summary."""

    agent: str
    step: str
    verified: str
    duration_s: float
    ok: bool


class Evidence:
    """What a step gathers while it runs: the sentence that says how it was verified."""

    def __init__(self) -> None:
        self.text = ""

    def require(self, condition: bool, otherwise: str) -> None:
        """Fail the step with *otherwise* unless *condition* holds."""
        if not condition:
            raise AssertionError(otherwise)


class Screen(logging.Handler):
    """Prints the demo's progress; as a log handler it shows each kind of message once per step, and counts it.

    *root* is where the simulated node's files are.
    """

    def __init__(self, root: str) -> None:
        super().__init__(logging.INFO)
        self._root = root
        self.lines: list[Line] = []
        self._kinds: Counter[str] = Counter()
        self._colour = sys.stdout.isatty()

    def title(self, text: str) -> None:
        self._say(f"{self._paint('1', text)}\n")

    def emit(self, record: logging.LogRecord) -> None:
        message = self._shorten(record.getMessage())
        kind = _ADDRESS.sub("*", message)
        self._kinds[kind] += 1
        if self._kinds[kind] == 1:
            self._say(f"    {self._paint('2', _one_line(message))}")

    @contextmanager
    def step(self, agent: str, text: str) -> Iterator[Evidence]:
        """One step of *agent*; an AssertionError in it is shown, kept for the summary, and ends the demo."""
        self._say(f"{self._paint('1', f'{agent:13}')} {text}")
        self._kinds.clear()
        evidence = Evidence()
        begin = time.monotonic()
        try:
            yield evidence
        except (AssertionError, TimeoutError) as error:
            self._end(agent, text, str(error) or "not verified", time.monotonic() - begin, ok=False)
            raise
        self._end(agent, text, evidence.text, time.monotonic() - begin, ok=True)

    def summary(self) -> bool:
        """The table at the end; whether everything was verified."""
        ok = bool(self.lines) and all(line.ok for line in self.lines)
        self._say(self._paint("1", f"{'RESULT':8} {'TIME':>7}  {'AGENT':13}  STEP"))
        for line in self.lines:
            mark = self._paint("32", "verified") if line.ok else self._paint("31", "FAILED  ")
            self._say(f"{mark} {line.duration_s:5.2f} s  {line.agent:13}  {line.step}")
        self._say("every step was verified" if ok else "NOT everything was verified")
        return ok

    def _end(self, agent: str, text: str, verified: str, duration_s: float, *, ok: bool) -> None:
        several = [f"{count} x {kind}" for kind, count in self._kinds.items() if count > 1]
        for repeated in several[:6]:
            self._say(f"    {self._paint('2', _one_line(repeated))}")
        mark = self._paint("32", "verified") if ok else self._paint("31", "FAILED")
        found = textwrap.fill(
            f"{self._shorten(verified)} ({duration_s:.2f} s)",
            _width(),
            initial_indent=" " * 12,
            subsequent_indent=" " * 12,
            break_on_hyphens=False,
            break_long_words=False,
        )
        self._say(f"  {mark}: {found.lstrip()}\n")
        self.lines.append(Line(agent, text, verified, duration_s, ok))

    def _say(self, text: str) -> None:
        try:
            # One write a line: agents log from their own threads.
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader has seen enough (`make demo | head`); the steps go on for their exit code.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _shorten(self, text: str) -> str:
        """*text* with the simulated node's paths as they would be on a real one."""
        return text.replace(self._root, "")

    def _paint(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._colour else text
