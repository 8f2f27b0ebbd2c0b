"""Reading YAML or JSON that strangers wrote, within bounds: whatever it is, it takes neither the agent's memory nor its
stack.

libyaml calls itself for each level of nesting and ends the whole process at some ten thousand of them, and a few lines
of aliases stand for gigabytes. The runtimes' readers have such bounds too. Pure.
"""

from collections.abc import Iterable
from typing import Any

import yaml

from nodelib.errors import InvalidValue

MAX_BYTES = 4 << 20
"""A spec with a thousand devices has 200 KiB."""
_MAX_DEPTH = 64
_MAX_VALUES = 500_000
_OPENING = (yaml.SequenceStartEvent, yaml.MappingStartEvent)
_CLOSING = (yaml.SequenceEndEvent, yaml.MappingEndEvent)
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_document(content: bytes) -> object:
    """What *content* holds, as mappings, lists and scalars.

    Raises InvalidValue with the line and the reason, for a doubled key too: runtimes refuse the whole file for it.
    """
    if len(content) > MAX_BYTES:
        raise InvalidValue(f"larger than {MAX_BYTES >> 20} MiB, which no spec is")
    try:
        _check_nesting(yaml.parse(content, Loader=_LOADER))
        loader = _LOADER(content)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _Measure().of(node, 0)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none, for example
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        where = _line(getattr(error, "problem_mark", None))
        raise InvalidValue(f"{where}neither JSON nor YAML ({problem})") from error


def _check_nesting(events: Iterable[yaml.Event]) -> None:
    """Before anything is built, which goes one call deeper for each level."""
    depth = 0
    for event in events:
        depth += isinstance(event, _OPENING) - isinstance(event, _CLOSING)
        if depth > _MAX_DEPTH:
            raise InvalidValue(f"{_line(event.start_mark)}nested more than {_MAX_DEPTH} levels deep")


class _Measure:
    """How many values a node stands for, the aliases in it followed."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, int]] = {}
        self._open: set[int] = set()

    def of(self, node: yaml.Node, depth: int) -> tuple[int, int]:
        """The values in *node* and the levels below it."""
        if isinstance(node, yaml.ScalarNode):
            return 1, 0
        if id(node) in self._open:
            raise InvalidValue(f"{_line(node.start_mark)}it holds itself")
        if id(node) not in self._known:
            self._open.add(id(node))
            self._known[id(node)] = self._measure(node, depth)
            self._open.remove(id(node))
        values, levels = self._known[id(node)]
        if depth + levels > _MAX_DEPTH or values > _MAX_VALUES:
            raise InvalidValue(f"{_line(node.start_mark)}its aliases stand for more than any spec holds")
        return values, levels

    def _measure(self, node: yaml.Node, depth: int) -> tuple[int, int]:
        if depth > _MAX_DEPTH:
            raise InvalidValue(f"{_line(node.start_mark)}its aliases stand for more than any spec holds")
        inner = [item for pair in node.value for item in pair] if isinstance(node, yaml.MappingNode) else node.value
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
        sizes = [self.of(item, depth + 1) for item in inner]
        return 1 + sum(values for values, _ in sizes), 1 + max((levels for _, levels in sizes), default=0)


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise InvalidValue(f"{_line(key.start_mark)}neither JSON nor YAML (a key that is no text)")
        if key.tag == "tag:yaml.org,2002:merge":  # of the runtimes, those in Rust know it not
            raise InvalidValue(f"{_line(key.start_mark)}merge keys (<<) are not for specs")
        if (key.tag, key.value) in seen:
            raise InvalidValue(f"{_line(key.start_mark)}the key {key.value[:60]!r} stands there twice")
        seen.add((key.tag, key.value))


def _line(mark: Any) -> str:
    """Where *mark* (libyaml's, PyYAML's or none) is, as the beginning of a message."""
    return f"line {mark.line + 1}: " if mark else ""
