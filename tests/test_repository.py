"""The rules of the repository, run as tests: what a linter, a type checker or a reader of the tree would find."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
AGENTS = ("vfio_manager", "kata_manager", "cc_manager", "device_plugin")
BIN = Path(sys.executable).parent


def passes(*command: str) -> None:
    """Fail with what *command* said if it does not succeed."""
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}{result.stderr}"


def test_the_code_is_formatted() -> None:
    passes(f"{BIN}/ruff", "format", "--check", ".")


def test_the_linter_finds_nothing() -> None:
    passes(f"{BIN}/ruff", "check", ".")


@pytest.mark.timeout(600)  # it has no cache on a new machine, and shares the processors with the other tests
def test_the_types_are_right() -> None:
    passes(f"{BIN}/mypy")


def test_nobody_imports_what_he_must_not() -> None:
    passes(f"{BIN}/lint-imports", "--no-cache")


def test_the_generated_code_is_current() -> None:
    passes(sys.executable, "proto/generate.py", "--check")


@pytest.mark.parametrize("agent", AGENTS)
def test_every_agent_has_what_an_agent_must_have(agent: str) -> None:
    folder = ROOT / "agents" / agent
    for name in ("pyproject.toml", "requirements.lock", "Dockerfile", "README.md", f"src/{agent}/py.typed"):
        assert (folder / name).exists(), f"agents/{agent} lacks {name}"
    modules = ["settings", "plan", "apply", "reconcile", "cli", "__main__"]
    if agent == "kata_manager":
        modules.remove("apply")  # nodelib.spec_folder applies its steps, for device-plugin too
    for module in modules:
        assert (folder / "src" / agent / f"{module}.py").exists(), f"{agent} lacks {module}.py"
    command = agent.replace("_", "-")
    assert (ROOT / "deploy/base" / command / "daemonset.yaml").exists(), f"deploy/base lacks {command}"
    assert f"\n### {command}\n" in (ROOT / "docs/security.md").read_text(), f"docs/security.md lacks {command}"
    assert command in (ROOT / "README.md").read_text(), f"README.md does not name {command}"
    assert command in (ROOT / "docs/architecture.md").read_text(), f"docs/architecture.md does not name {command}"


@pytest.mark.parametrize("agent", ["nodelib", *AGENTS])
def test_a_module_stays_small_enough_to_be_read(agent: str) -> None:
    for path in (ROOT / "agents" / agent / "src" / agent).rglob("*.py"):
        if "_pb2" in path.name:
            continue  # generated
        lines = len(path.read_text().splitlines())
        assert lines <= 300, f"{path.relative_to(ROOT)} has {lines} lines: cut it"


def test_the_agents_depend_on_the_nodelib_of_the_same_version() -> None:
    nodelib = tomllib.loads((ROOT / "agents/nodelib/pyproject.toml").read_text())["project"]["version"]
    for agent in AGENTS:
        project = tomllib.loads((ROOT / "agents" / agent / "pyproject.toml").read_text())["project"]
        assert project["version"] == nodelib
        assert any(
            dependency.startswith("cgpu-nodelib[") and dependency.endswith(f"=={nodelib}")
            for dependency in project["dependencies"]
        ), f"{agent} does not pin cgpu-nodelib to {nodelib}"


def test_nothing_committed_names_a_machine_or_an_index() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    forbidden = ("/wo" + "rk/main", "/wo" + "rk/shared", "--index-" + "url", "--extra-index-" + "url", "file:/" + "/")
    for name in filter(None, listed.decode().split("\0")):
        path = ROOT / name
        if path.is_symlink() or not path.exists() or path.suffix in (".png", ".svg"):
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        for word in forbidden:
            assert word not in text, f"{name} holds {word!r}"


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("verb", ["--help", "status --help"])
def test_a_quick_answer_loads_nothing_heavy(agent: str, verb: str) -> None:
    """`--help` and `status` must answer at once: what only a daemon needs is not imported for them."""
    if agent == "device_plugin":
        verb = verb.replace("status", "list")
    heavy = ["grpc", "kubernetes", "prometheus_client", "pyudev", "urllib3", "inotify_simple"]
    script = (
        f"import sys; from {agent}.cli import cli\n"
        "try: cli.main(sys.argv[1:], standalone_mode=False)\n"
        "except SystemExit: pass\n"
        f"sys.stderr.write(','.join(name for name in {heavy!r} if name in sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, *verb.split()], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert result.stderr == ""
