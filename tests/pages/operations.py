"""docs/operations.md: every option, variable, label, file, metric, Event, code and exit code, from the code."""

import importlib
import inspect
from collections.abc import Iterable
from itertools import chain

from cc_manager.cluster.operands import OPERANDS, paused_value
from nodelib import errors
from nodelib.event_reasons import EventReason
from nodelib.serving import HUNG_AFTER_S
from tests.pages import deployed, metrics
from tests.pages.commands import Executable, Option, executables, meaning, options, usage
from tests.pages.examples import records
from tests.pages.markdown import block, code, table
from tests.pages.source import (
    AGENTS,
    PACKAGES,
    UNKNOWN,
    Constant,
    Saying,
    checks,
    constants,
    environment_variables,
    ignored_variables,
    problems,
)

_HOST_FOLDERS = ("/etc/", "/lib/", "/opt/", "/run/", "/usr/", "/var/")
"""Not those of the kernel; other paths in the code are of the API or of gRPC."""
_HEAD = """\
# Operations: everything that can be set, seen and asked

Written by `make docs` from the code (`tests/pages`): change it there. Words in capitals stand for what a run fills in.
What the agents are for is in the [README](../README.md), what to do when something is wrong in
[troubleshooting.md](troubleshooting.md), which rights each needs in [security.md](security.md).
"""


def page() -> str:
    """The whole page."""
    measured = metrics.collect()
    parts = [_HEAD, _contents(), _common(), _labels(), _files(), _variables()]
    parts += [_agent(agent, measured[agent]) for agent in AGENTS]
    parts += [_problems(), _checks(), _alerts(), _records()]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def label_constants() -> tuple[Constant, ...]:
    """The node's labels and annotations that the code names."""
    return tuple(one for one in _all_constants() if "/" in one.value and one.value.split("/")[0].endswith(".com"))


def file_constants() -> tuple[Constant, ...]:
    """The host's files and folders that the code names, but for those of the kernel; each path once."""
    found: dict[str, Constant] = {}
    for one in _all_constants():
        is_path = one.value.startswith(_HOST_FOLDERS) and ":" not in one.value
        if is_path and not (one.value in found and found[one.value].doc):
            found[one.value] = one
    return tuple(found.values())


def event_reasons(agent: str) -> tuple[EventReason, ...]:
    """The Events that *agent* posts."""
    try:
        module = importlib.import_module(f"{agent}.event_reasons")
    except ModuleNotFoundError:
        return ()
    return tuple(value for value in vars(module).values() if isinstance(value, EventReason))


def _all_constants() -> Iterable[Constant]:
    return chain.from_iterable(constants(package) for package in PACKAGES)


def _contents() -> str:
    chapters = ["Common to all agents", "Labels and annotations", "Files", "Environment variables"]
    chapters += [_name(agent) for agent in AGENTS]
    chapters += ["Problem codes", "Checks of doctor", "Alerts", "What -o json gives"]
    return " ·\n".join(f"[{chapter}](#{chapter.lower().replace(' ', '-')})" for chapter in chapters)


def _common() -> str:
    kinds = [errors.NodeError, errors.InvalidValue, errors.NotSupported]
    rows = [("0", "Done; also of a daemon that was told to stop.")]
    rows += [(str(kind.exit_code), (inspect.getdoc(kind) or "").partition("\n")[0]) for kind in kinds]
    pages = [
        (
            "/healthz",
            f"200 while the loop is alive, 503 when a due round has not ended in {HUNG_AFTER_S:g} s. For probes.",
        ),
        ("/readyz", "200 when the last round reached the desired state, else 503; the text says why. For people."),
        ("/metrics", "The metrics, in Prometheus' text format."),
    ]
    shared = [option for option, count in _sharing().items() if count == len(AGENTS)]
    return "\n".join(
        [
            "## Common to all agents\n",
            "### Exit codes\n",
            table(("Code", "Meaning"), rows),
            "`doctor` ends with 1 if a check failed, and with 0 if there are warnings alone.\n",
            "### Pages of a daemon, with `--listen`\n",
            table(("Page", "Answer"), ((code(path), text) for path, text in pages)),
            "### Metrics of every daemon\n",
            _metrics_table(metrics.of_every_loop()),
            "AGENT is the agent's name with underscores, `vfio_manager`.\n",
            "### Options of every agent\n",
            table(
                ("Option", "Variable", "Default", "Meaning"),
                ((code(o.flags), code(o.variable), code(o.default), o.meaning) for o in shared),
            ),
        ]
    )


def _labels() -> str:
    rows = sorted((one.value, _name(one.module.partition(".")[0]), one.doc) for one in label_constants())
    selected = [(code(key), uses) for key, uses in deployed.labels()]
    return "\n".join(
        [
            "## Labels and annotations\n",
            "Those of the Node that the code reads or writes:\n",
            table(("Key", "Agent", "Meaning"), ((code(key), agent, text) for key, agent, text in rows)),
            f"Operands that cc-manager pauses while a mode changes: {', '.join(map(code, OPERANDS))}. The value `true`",
            f"becomes {code(paused_value('true') or '')}, any other value `v` {code(paused_value('v') or '')};",
            "absent and `false` stay.\n",
            "Those by which deploy/base chooses nodes, and what sets them there:\n",
            table(("Key", "Use"), selected),
        ]
    )


def _alerts() -> str:
    rows = [(code(name), severity, text, when) for name, severity, text, when in deployed.alerts()]
    text = "Of `deploy/components/monitoring`; each has a description that says where to look."
    return f"## Alerts\n\n{text}\n\n" + table(("Alert", "Severity", "Summary", "When"), rows)


def _files() -> str:
    rows = sorted({(one.value, _name(one.module.partition(".")[0]), one.doc) for one in file_constants()})
    return (
        "## Files\n\nOf the host, under `--host-root`; beside `/sys`, `/proc`, `/dev` and `/lib/modules`.\n\n"
        + table(("Path", "Agent", "Meaning"), ((code(path), agent, text) for path, agent, text in rows))
    )


def _variables() -> str:
    users: dict[str, dict[str, list[str]]] = {}
    for agent, executable in ((name, one) for name in AGENTS for one in executables(name)):
        for option in () if _is_alias(executable, agent) else options(executable):
            for variable in option.variable.split():
                users.setdefault(variable, {}).setdefault(option.name, []).append(executable.name)
    rows = [
        (code(variable), "; ".join(f"{code(name)} of {_all_or(names)}" for name, names in users[variable].items()))
        for variable in sorted(users)
    ]
    ignored = [(name, _name(package), why) for package in PACKAGES for name, why in ignored_variables(package)]
    others = sorted(
        {name for package in PACKAGES for name in environment_variables(package)} - {row[0] for row in ignored}
    )
    return "\n".join(
        [
            "## Environment variables\n",
            "Each is the same as its option, which wins where both are given.\n",
            table(("Variable", "Option"), rows),
            "Of existing manifests, taken without effect:\n",
            table(("Variable", "Agent", "Why"), ((code(name), agent, why) for name, agent, why in ignored)),
            f"Read besides: {', '.join(code(name) for name in others)}; Kubernetes and the image set them.\n",
        ]
    )


def _all_or(names: list[str]) -> str:
    return "every agent" if {_name(agent) for agent in AGENTS} <= set(names) else ", ".join(names)


def _agent(agent: str, families: Iterable[metrics.Family]) -> str:
    parts = [f"## {_name(agent)}\n"]
    for executable in executables(agent):
        if _is_alias(executable, agent):
            parts.append(
                f"### {code(executable.name)}\n\n{_name(agent)} under the name that existing manifests call.\n"
            )
            continue
        if executable.name != _name(agent):
            parts.append(f"### {code(executable.name)}\n\n{meaning(executable.command)}\n")
        verbs = executable.verbs.items()
        rows = [(code(f"{executable.name} {usage(executable, v)}".strip()), meaning(c)) for v, c in verbs]
        parts += [table(("Command", "What it does"), rows), _options_table(executable)]
    parts += [f"### Metrics of {_name(agent)}\n", _metrics_table(families), f"### Events of {_name(agent)}\n"]
    reasons = [(code(one.name), one.type.value, one.meaning) for one in event_reasons(agent)]
    parts.append(table(("Reason", "Type", "When"), reasons))
    return "\n".join(parts)


def _is_alias(executable: Executable, agent: str) -> bool:
    """Whether it is the agent's own command, which is told already, under another name."""
    return executable.name != _name(agent) and executable.command is executables(agent)[0].command


def _options_table(executable: Executable) -> str:
    shared = {option for option, count in _sharing().items() if count == len(AGENTS)}
    return table(
        ("Option", "Variable", "Default", "Verbs", "Meaning"),
        (
            (code(o.flags), code(o.variable), code(o.default), _verbs(o, executable), o.meaning)
            for o in options(executable)
            if _alike(o) not in shared
        ),
    )


def _sharing() -> dict[Option, int]:
    """Each option, whatever verbs have it, and how many of the agents' own commands it belongs to."""
    counts: dict[Option, int] = {}
    for agent in AGENTS:
        for option in dict.fromkeys(map(_alike, options(executables(agent)[0]))):
            counts[option] = counts.get(option, 0) + 1
    return counts


def _alike(option: Option) -> Option:
    return Option(option.flags, option.variable, option.default, option.meaning, ())


def _verbs(option: Option, executable: Executable) -> str:
    return "all" if len(option.verbs) == len(executable.verbs) else ", ".join(option.verbs)


def _metrics_table(families: Iterable[metrics.Family]) -> str:
    rows = [(code(f.name), f.type, ", ".join(code(label) for label in f.labels), f.help) for f in families]
    return table(("Metric", "Type", "Labels", "Meaning"), rows)


def _problems() -> str:
    rows = chain.from_iterable(_sayings(package, problems(package)) for package in PACKAGES)
    text = (
        "The code is stable; texts and remedies may become better. They stand in tables, JSON, logs, Events and "
        "`/readyz`.\nWhat several agents say is from `shared`."
    )
    return f"## Problem codes\n\n{text}\n\n" + table(("Code", "From", "What it says", "Remedy"), rows)


def _sayings(package: str, sayings: Iterable[Saying]) -> Iterable[tuple[str, ...]]:
    return [(code(one.code), _name(package), _known(one.text), _known(one.remedy)) for one in sayings]


def _known(text: str) -> str:
    return "as found" if text == UNKNOWN else text


def _checks() -> str:
    rows = [
        (code(one.code), _name(package), one.outcome, _known(one.text), _known(one.remedy))
        for package in PACKAGES
        for one in checks(package)
    ]
    text = "What `doctor` finds wrong. A check that passes says what it found."
    return f"## Checks of doctor\n\n{text}\n\n" + table(("Check", "From", "Result", "What it says", "Remedy"), rows)


def _records() -> str:
    parts = [
        "## What -o json gives\n",
        "A list of records; fields are added, never renamed. One record of each verb, of a simulated `dgx-h100` whose",
        "devices are bound. `doctor` gives `check`, `result` (`pass`, `warn`, `fail`), `found` and `remedy`.\n",
    ]
    for command, record in records():
        parts += [f"`{command} -o json`\n", block(record, "json")]
    return "\n".join(parts)


def _name(package: str) -> str:
    return "shared" if package == "nodelib" else package.replace("_", "-")
