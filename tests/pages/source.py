"""What the agents' source says of itself: constants and the docstring below each, problem codes, names of checks.

Read with `ast`, not by import: a docstring below a constant is for people, and Python does not keep it.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[2]
AGENTS = ("vfio_manager", "cc_manager", "kata_manager", "device_plugin")
PACKAGES = ("nodelib", *AGENTS)
_CHECKS = ("passed", "warned", "failed")
UNKNOWN = "..."
"""For what has no name in the source either."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A string that a module has a name for, alone or among others."""

    module: str
    name: str
    value: str
    doc: str
    """The docstring right below it; empty if there is none."""


@dataclass(frozen=True, slots=True)
class Saying:
    """A problem or a check as the source has it; what it fills in is in capitals."""

    module: str
    code: str
    text: str
    remedy: str = ""
    outcome: str = ""
    """Of a check: `fail` or `warn`."""


def modules(package: str) -> Iterator[tuple[str, ast.Module]]:
    """Every module of *package* by its name, sorted."""
    folder = ROOT / "agents" / package / "src" / package
    for path in sorted(folder.rglob("*.py")):
        if "_pb2" not in path.name:
            yield ".".join((package, *path.relative_to(folder).with_suffix("").parts)), _parsed(path)


def constants(package: str) -> tuple[Constant, ...]:
    """The string constants of *package*'s modules, those in tuples one by one, in the order of the source."""
    found = []
    for module, tree in modules(package):
        for node, following in pairwise([*tree.body, None]):
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str() as value)):
                    found.append(Constant(module, name, value, _docstring(following)))
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Tuple(elts=parts)):
                    values = [part.value for part in parts if isinstance(part, ast.Constant)]
                    found += [Constant(module, name, v, _docstring(following)) for v in values if isinstance(v, str)]
    return tuple(found)


def ignored_variables(package: str) -> tuple[tuple[str, str], ...]:
    """Variables of existing manifests that *package* takes without effect, and why: a table of names, or of reasons."""
    found: list[tuple[str, str]] = []
    for _, tree in modules(package):
        for node, following in pairwise([*tree.body, None]):
            doc = _docstring(following)
            match node:
                case ast.Assign(value=ast.Tuple(elts=names)) if doc.startswith("Variables"):
                    found += [(_text(name), doc) for name in names]
                case ast.Assign(value=ast.Dict(keys=names, values=reasons)) if doc.startswith("Variables"):
                    found += [(_text(name), _text(why)) for name, why in zip(names, reasons, strict=True)]
    return tuple(found)


def problems(package: str) -> tuple[Saying, ...]:
    """Every `Problem(code, text, remedy)` that *package* can give, by code."""
    found = []
    for module, scope, call in _calls(package, ("Problem",)):
        code, text, remedy = (*_arguments(call, scope), "", "", "")[:3]
        found.append(Saying(module, code, text, remedy))
    return tuple(sorted(found, key=lambda saying: (saying.code, saying.module)))


def sentences(package: str) -> frozenset[str]:
    """Every text of more than one word that *package* can say, as in `Saying`."""
    found = set()
    for _, tree in modules(package):
        reader = _Reader(tree, 0)
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant | ast.JoinedStr) and " " in (text := reader.said(node)):
                found.add(text)
    return frozenset(found)


def checks(package: str) -> tuple[Saying, ...]:
    """Every failure and warning of *package*'s `doctor` code, by the check's name; failures first."""
    found = []
    for outcome, function in (("fail", "failed"), ("warn", "warned")):
        for module, scope, call in _calls(package, (function,)):
            name, text, remedy = (*_arguments(call, scope), "", "", "")[:3]
            found.append(Saying(module, name, text, remedy, outcome))
    return tuple(sorted(found, key=lambda saying: saying.code))


def check_names(package: str) -> tuple[str, ...]:
    """The names of the checks that *package*'s `doctor` code can give, sorted."""
    names = {_arguments(call, scope)[0] for _, scope, call in _calls(package, _CHECKS) if call.args}
    return tuple(sorted(names - {UNKNOWN}))


def environment_variables(package: str) -> tuple[str, ...]:
    """The variables that *package* reads by name without an option, sorted."""
    found = set()
    for _, tree in modules(package):
        for node in ast.walk(tree):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id=owner) | ast.Attribute(attr=owner), attr="get"),
                    args=[ast.Constant(value=str() as name), *_],
                ) if owner.startswith("environ"):
                    found.add(name)
    return tuple(sorted(found))


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _text(node: ast.expr | None) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else UNKNOWN


def _docstring(node: ast.stmt | None) -> str:
    match node:
        case ast.Expr(value=ast.Constant(value=str() as text)):
            return " ".join(text.split())
        case _:
            return ""


def _calls(package: str, names: tuple[str, ...]) -> Iterator[tuple[str, ast.AST, ast.Call]]:
    """Calls of the functions *names*: the module, the function around the call, and the call."""
    for module, tree in modules(package):
        scopes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        seen: set[ast.Call] = set()
        for scope in (*scopes, tree):
            for node in ast.walk(scope):
                match node:
                    case ast.Call(func=ast.Name(id=name)) if name in names and node not in seen:
                        seen.add(node)
                        yield module, scope, node


def _arguments(call: ast.Call, scope: ast.AST) -> list[str]:
    """The call's positional arguments as text."""
    reader = _Reader(scope, call.lineno)
    return [reader.said(argument) for argument in call.args]


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads expressions as text, as they stand in *line* of the function *scope*."""

    scope: ast.AST
    line: int

    def said(self, node: ast.expr) -> str:
        """*node* as text; what only a run knows is in capitals, or three dots where it has no name."""
        match node:
            case ast.Constant(value=str() as text):
                return text
            case ast.JoinedStr(values=parts):
                return "".join(self.said(part) for part in parts)
            case ast.FormattedValue(value=value):
                return self._filled_in(value)
            case ast.Name(id=name):
                return self._assigned(name)
            case ast.IfExp(body=one, orelse=other):
                return " or ".join(dict.fromkeys(text for text in map(self.said, (one, other)) if text))
            case _:
                return UNKNOWN

    def _filled_in(self, value: ast.expr) -> str:
        match value:
            case ast.Name(id=name):
                said = self._assigned(name)
                return name.upper() if said == UNKNOWN else said
            case ast.Call(func=ast.Name(id="len")):
                return "N"
            case ast.Attribute(attr=name) | ast.Call(func=ast.Name(id=name)):
                return name.strip("_").upper()
            case _:
                return self.said(value)

    def _assigned(self, name: str) -> str:
        """What was last assigned to *name* before the line."""
        values = [
            node.value
            for node in ast.walk(self.scope)
            if isinstance(node, ast.Assign)
            and node.lineno <= self.line
            and [getattr(target, "id", None) for target in node.targets] == [name]
        ]
        nearest = max(values, key=lambda value: value.lineno, default=None)
        return UNKNOWN if nearest is None else self.said(nearest)
