"""`cc-manager run` as a process: what it needs to begin, and how it ends."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cc_manager.cluster import labels
from cc_manager.lock import mode_lock
from cc_manager.settings import LOCK_FILE
from tests.cc_manager.simulated import NODE_NAME, CcNode


@contextlib.contextmanager
def started(*args: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("KUBE", "NODE_NAME"))}
    with subprocess.Popen(
        [sys.executable, "-m", "cc_manager", "run", *args],
        env=inherited | environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=20)
    return process.returncode, err


def test_run_without_a_node_name_says_which_setting_is_missing(tmp_path: Path) -> None:
    with started("--host-root", str(tmp_path)) as process:
        code, err = ended(process)
    assert code == 2
    assert "Missing option '--node-name' (env var: 'NODE_NAME')" in err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--node-name", "a/b"], 2, "error: --node-name 'a/b' is no node's name\n"),
        (["--node-name", "n", "--kubeconfig", "/not/there"], 2, "error: kubeconfig /not/there cannot be used: "),
        (["--node-name", "n"], 3, "error: not in a pod with a service account: give --kubeconfig"),
        (["--node-name", "n", "--default-mode", "ON"], 2, "'ON' is not one of 'off', 'on', 'devtools', 'ppcie'"),
    ],
)
def test_run_that_cannot_begin_says_why(tmp_path: Path, arguments: list[str], code: int, says: str) -> None:
    with started(*arguments, "--host-root", str(tmp_path)) as process:
        ended_with, err = ended(process)
    assert ended_with == code
    assert says in err
    assert "Traceback" not in err


def test_run_is_told_what_to_do_by_its_environment_and_ends_on_sigterm(tmp_path: Path) -> None:
    """The real process on the simulated tree; its GPUs are on the driver nvidia, so that nothing is to be mapped."""
    with CcNode(tmp_path, gpus=2, driver="nvidia", labels={labels.MODE: "on"}) as node:
        environment = {
            "NODE_NAME": NODE_NAME,
            "KUBECONFIG": str(node.kubeconfig(tmp_path)),
            "HOST_ROOT": str(node.node.host.root),
            "LOG_FORMAT": "json",
            "CC_CAPABLE_DEVICE_IDS": "0x2330,0x2342",
            "EVICT_OPERATOR_COMPONENTS": "true",
            "OPERATOR_NAMESPACE": "gpu-operator",
            "DEFAULT_CC_MODE": "on",
        }
        with started(**environment) as process:
            node.api.wait_until(lambda: node.api.labels.get(labels.STATE) == "failed", 20)
            assert "bind it first: vfio-manager bind" in node.api.annotations[labels.MESSAGE]
            process.send_signal(signal.SIGTERM)
            code, err = ended(process)
    assert code == 0
    said = [json.loads(line)["message"] for line in err.splitlines()]
    assert any(line.startswith("CC_CAPABLE_DEVICE_IDS is not needed any more") for line in said)


def test_a_second_run_on_the_node_ends_with_a_sentence(tmp_path: Path) -> None:
    with CcNode(tmp_path, gpus=1) as node, mode_lock(node.node.host.resolve(LOCK_FILE)):
        kubeconfig = str(node.kubeconfig(tmp_path))
        with started(
            "--node-name", NODE_NAME, "--kubeconfig", kubeconfig, "--host-root", str(node.node.host.root)
        ) as process:
            code, err = ended(process)
    assert code == 1
    assert "error: another cc-manager on this node holds" in err
