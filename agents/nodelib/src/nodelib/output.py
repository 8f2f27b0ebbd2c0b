"""What the commands print: tables for people in 80 columns, JSON and YAML for programs."""

import json
import re
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import click

Record = Mapping[str, object]
_PLACES = re.compile(
    r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]|IOMMU group \d+|/dev/vfio/(?:devices/vfio)?\d+|(?<=[\w-])=\d+\b"
)
_NARROWEST = 12
"""A column is never cut below this width."""
_ELASTIC = frozenset(("model", "nodes", "further_names", "found"))
"""The fields that tell enough even if their end is cut."""


@dataclass(frozen=True, slots=True)
class Report:
    """One answer of a command: rows under columns, and notes in sentences below them."""

    rows: tuple[Record, ...]
    """Every field of every item: what JSON and YAML show, whole."""
    columns: Mapping[str, str]
    """Which fields the table shows, and the heading of each."""
    notes: tuple[str, ...] = ()
    """Reasons and remedies, for people; programs find them in the rows."""
    empty: str = "nothing found"
    """What a table without rows says instead."""


def render(report: Report, output: str) -> str:
    """*report* as `table`, `json` or `yaml`, without the last newline."""
    match output:
        case "json":
            return json.dumps(list(report.rows), indent=2)
        case "yaml":
            import yaml  # read only when asked for: `status` must answer at once

            return str(yaml.safe_dump(list(report.rows), sort_keys=False)).rstrip()
        case _:
            return _table(report)


def echo(report: Report, output: str) -> None:
    """Print *report* to standard output."""
    click.echo(render(report, output))


def grouped(reasons: Iterable[tuple[object, str]]) -> tuple[str, ...]:
    """One note for all devices that have the same reason: eight GPUs asleep are one thing to know, not eight.

    *reasons* are names (addresses, ids) and texts; texts that differ only in the addresses, IOMMU groups, VFIO nodes
    and CDI names that they speak of are the same reason, and the first stands for all.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, text in reasons:
        groups.setdefault(_PLACES.sub("*", text), []).append((str(name), text))
    notes = []
    for members in groups.values():
        name, text = members[0]
        others = len(dict.fromkeys(member for member, _ in members)) - 1
        notes.append(f"{name}{f' and {others} more' if others else ''}: {text.removeprefix(f'{name}: ')}")
    return tuple(notes)


def sentence(text: str, indent: str = "") -> str:
    """*text* wrapped to the terminal's width, continuation lines set in."""
    width = max(40, min(100, _terminal_width()))
    return textwrap.fill(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_on_hyphens=False,
        break_long_words=False,
    )


def _table(report: Report) -> str:
    if not report.rows:
        return "\n".join([report.empty, *(sentence(note) for note in report.notes)])
    lines = [list(report.columns.values())]
    lines += [[_cell(row.get(field)) for field in report.columns] for row in report.rows]
    widths = _fitting(report.columns, [max(map(len, cells)) for cells in zip(*lines, strict=True)])
    text = [_line(line, widths) for line in lines]
    if report.notes:
        text += ["", *(sentence(note) for note in report.notes)]
    return "\n".join(text)


def _terminal_width() -> int:
    return shutil.get_terminal_size((80, 24)).columns


def _fitting(fields: Iterable[str], widths: Sequence[int]) -> list[int]:
    """*widths* with the widest of the columns that may be cut made narrower until a line fits the terminal.

    An address, a driver or a state is never cut: half of one is of no use. JSON has everything whole.
    """
    fitting = dict(zip(fields, widths, strict=True))
    while sum(fitting.values()) + 2 * (len(fitting) - 1) > _terminal_width():
        elastic = [field for field in fitting if field in _ELASTIC and fitting[field] > _NARROWEST]
        if not elastic:
            break
        fitting[max(elastic, key=fitting.__getitem__)] -= 1
    return list(fitting.values())


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(_cut(cell, width).ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 2]}.."


def _cell(value: object) -> str:
    match value:
        case None | "" | () | []:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ",".join(str(item) for item in value)
        case _:
            return str(value)
