"""Every image is built and started: what is in it, what it answers, and that equal sources give equal images."""

import importlib.util
import re
import shutil
import signal
import socket
import struct
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from images.agents import NAMES, ROOT, agent
from images.lock import pinned
from tests.fakes.kernel import FakeKernel
from tests.fakes.polling import until
from tests.images.built.base import NAME as BASE
from tests.images.built.base import Buildah
from tests.images.built.building import EPOCH, REGISTRY, build
from tests.images.built.container import Image, mounted

pytestmark = pytest.mark.timeout(600)  # a build may take its time

HOST = "/host"
REVISION = "org.opencontainers.image.revision"
WITH_MODPROBE = ("vfio_manager", "kata_manager")
each_agent = pytest.mark.parametrize("name", NAMES)


@each_agent
def test_it_tells_its_version_and_its_labels_tell_the_same(name: str, image: Callable[[str], Image]) -> None:
    built, one = image(name), agent(name)
    result = built.run(*built.entry_point, "--version")
    assert (result.stdout, result.stderr) == (f"{one.image} {one.version}\n", "")
    label = "org.opencontainers.image."
    labels = built.config["Labels"]
    assert (labels[f"{label}title"], labels[f"{label}version"]) == (one.image, one.version)
    assert labels[f"{label}description"] == one.description
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", labels[REVISION])
    assert labels[f"{label}base.name"] == BASE


@each_agent
def test_doctor_answers_in_it(name: str, image: Callable[[str], Image], host: FakeKernel) -> None:
    built = image(name)
    if importlib.util.find_spec(f"{name}.doctor") is None:
        pytest.skip(f"{agent(name).image} has no doctor yet")
    result = built.run(*built.entry_point, "doctor", volumes={host.host.root: HOST}, environment={"HOST_ROOT": HOST})
    assert result.returncode in (0, 1), result.stderr
    assert re.search(r"^(pass|warn|fail)", result.stdout, re.MULTILINE | re.IGNORECASE), result.stdout
    assert "Traceback" not in result.stderr


@each_agent
@pytest.mark.parametrize("arguments", ["the image's", "none"])
def test_the_entry_point_is_the_daemon_with_the_images_arguments_and_with_none(
    name: str, arguments: str, image: Callable[[str], Image], host: FakeKernel, service_account: Path
) -> None:
    """As uid 0 without any capability, on a read-only root."""
    built = image(name)
    port = free_port()
    command = [*built.entry_point, *(built.default_arguments if arguments == "the image's" else [])]
    environment = {
        "HOST_ROOT": HOST,
        "LISTEN": f"127.0.0.1:{port}",
        "NODE_NAME": "node-1",
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": "1",  # nobody there: a daemon outlives that
    }
    volumes = {host.host.root: HOST, service_account: "/var/run/secrets/kubernetes.io/serviceaccount"}
    with built.started(*command, volumes=volumes, environment=environment) as process:
        until(lambda: process.poll() is not None or is_healthy(port))
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=20)
    assert process.returncode == 0, said
    assert "Traceback" not in said


@each_agent
def test_it_holds_what_the_lock_says_and_nothing_to_install_or_compile_with(
    name: str, image: Callable[[str], Image]
) -> None:
    built, one = image(name), agent(name)
    [packages] = built.root.glob("opt/agent/lib/python3*/site-packages")
    found = {
        canonicalize_name(distribution.name): distribution.version
        for distribution in map(PathDistribution, packages.glob("*.dist-info"))
    }
    ours = {one.distribution: one.version, "cgpu-nodelib": one.version}
    assert found == {**pinned(one.lock.read_text()), **ours}
    for program in ("pip", "pip3", "gcc", "cc", "make", "uv"):
        assert built.run("/bin/sh", "-c", f"command -v {program}").returncode != 0, f"there is {program}"
    for python in ("python3", "/opt/agent/bin/python"):
        for module in ("pip", "ensurepip"):
            assert "No module named" in built.run(python, "-m", module, "--version").stderr
    assert not list(packages.rglob("tests")), "somebody's tests"


@each_agent
def test_it_runs_as_root_and_assumes_no_host_root(name: str, image: Callable[[str], Image]) -> None:
    """Manifests of existing operators mount the host's /sys at /sys; those that mount it elsewhere say so."""
    built = image(name)
    assert built.config["User"] == "0:0"
    assert "HOST_ROOT" not in built.environment


@each_agent
def test_modprobe_is_where_modules_are_loaded_and_nowhere_else(name: str, image: Callable[[str], Image]) -> None:
    result = image(name).run("modprobe", "--version")
    assert (result.returncode == 0 and result.stdout.startswith("kmod ")) == (name in WITH_MODPROBE), result.stderr


@each_agent
def test_compiled_code_depends_on_no_date(name: str, image: Callable[[str], Image]) -> None:
    """PEP 552: flags 1 is by hash, unchecked. Everything is compiled: a read-only root could not do it later."""
    [packages] = image(name).root.glob("opt/agent/lib/python3*/site-packages")
    for source in packages.rglob("*.py"):
        [compiled] = (source.parent / "__pycache__").glob(f"{source.stem}.cpython-*.pyc")
        assert struct.unpack("<I", compiled.read_bytes()[4:8]) == (1,), compiled
        assert (source.stat().st_mtime, compiled.stat().st_mtime) == (float(EPOCH),) * 2


def test_equal_sources_give_equal_images_whenever_and_by_whomever_they_were_checked_out(
    image: Callable[[str], Image], buildah: Buildah, tmp_path: Path
) -> None:
    name = "kata_manager"  # has most in it: grpc, Debian's kmod, a file beside the packages
    first = image(name)
    for part in ("agents", "images", ".dockerignore"):
        (shutil.copytree if (ROOT / part).is_dir() else shutil.copyfile)(ROOT / part, tmp_path / part)
    for path in (tmp_path / "agents").rglob("*"):
        path.chmod(path.stat().st_mode | 0o020)  # a umask of 002; the copy's dates are those of now
        if path.name == "__pycache__":
            (path / "left_behind.pyc").write_bytes(b"")
    build(buildah, tmp_path, name, "second")
    second = mounted(buildah, f"{REGISTRY}/{agent(name).image}:second")
    assert second.layers == first.layers
    assert second.config["Labels"] | {REVISION: ""} == first.config["Labels"] | {REVISION: ""}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
