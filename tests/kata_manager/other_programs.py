"""podman and containerd, as Debian packages them, in a mount namespace of their own with our CDI folders and /dev.

They look for CDI specs in /etc/cdi and /var/run/cdi and for device nodes in /dev, wherever the simulated node has them:
so each run sees the node's folders there, and real character devices under the names of the node's VFIO nodes. Nothing
outside of the namespace changes, but that /etc/cdi and /var/run/cdi are made, empty, where they are missing.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_PLACES = ("/etc/cdi", "/var/run/cdi")
_DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
_TIMEOUT_S = 100
# The processes too, so that none of theirs outlives a run and writes where the test tidies up.
_UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")


def need(*programs: str) -> None:
    """Skip the test unless these are installed and mount namespaces are to be had."""
    for program in ("unshare", *programs):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (.ci/run installs it)")
    tried = subprocess.run([*_UNSHARE, "true"], capture_output=True, check=False, text=True)
    if tried.returncode != 0 or os.geteuid() != 0:
        pytest.skip(f"no mount namespace without being root ({tried.stderr.strip()})")


@dataclass(frozen=True, slots=True)
class Result:
    status: int
    said: str


class Namespace:
    """Runs programs where *folders* are the CDI folders and *nodes* the device nodes below /dev/vfio."""

    def __init__(self, scratch: Path, folders: tuple[Path, Path], nodes: Iterable[str]) -> None:
        self.scratch = scratch
        lines = ["set -e", "mount --make-rprivate /"]
        for place, folder in zip(_PLACES, folders, strict=True):
            folder.mkdir(parents=True, exist_ok=True)
            lines += [f"mount --bind {shlex.quote(str(folder))} {place}"]
        dev = scratch / "dev"
        dev.mkdir()
        lines += [f"mount -t tmpfs tmpfs {dev}"]
        for name, major, minor in _DEVICES:
            lines += [f"mknod -m 666 {dev}/{name} c {major} {minor}"]
        lines += [f"mkdir -p {dev}/vfio/devices {dev}/shm {dev}/pts"]
        lines += [f"mknod {dev}{node.removeprefix('/dev')} c 1 3" for node in sorted(set(nodes))]
        lines += [f"mount --rbind {dev} /dev"]
        self._prelude = "\n".join(lines)

    def run(self, script: str) -> Result:
        """What *script* says on either of its streams, and how it ends."""
        done = subprocess.run(
            [*_UNSHARE, "sh", "-c", f"{self._prelude}\n{script}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT_S,
            check=False,
        )
        return Result(done.returncode, done.stdout.decode(errors="replace"))


@contextmanager
def namespace(static: Path, dynamic: Path, nodes: Iterable[str]) -> Iterator[Namespace]:
    """A namespace with a scratch folder that is not below /dev, which it hides."""
    for place in _PLACES:  # bound over; on a machine that has them nothing is changed
        Path(place).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="cdi-", dir="/tmp") as scratch:
        copies = Path(scratch) / "static", Path(scratch) / "dynamic"
        for source, copy in zip((static, dynamic), copies, strict=True):
            if source.is_dir():
                shutil.copytree(source, copy, symlinks=True)
        yield Namespace(Path(scratch), copies, nodes)


# --- podman


def podman_resolves(space: Namespace, names: Iterable[str]) -> dict[str, list[str] | str]:
    """For each name the device nodes that podman would put into a container, or the words of its refusal.

    A container is made ready to start, with a runtime that does nothing: podman resolves the name for it, and writes
    what the runtime is to do.
    """
    home = space.scratch / "podman"
    (home / "rootfs").mkdir(parents=True, exist_ok=True)
    podman = (
        f"podman --root {home}/root --runroot {home}/run --storage-driver vfs --events-backend none "
        "--cgroup-manager cgroupfs --runtime /bin/false"
    )
    lines = []
    for name in names:
        create = f"create --network none --device {shlex.quote(name)} --rootfs {home}/rootfs /bin/true"
        lines.append(
            f"echo '@name {name}'; id=$({podman} {create}) && {{ {podman} init $id || true; echo; echo @config; "
            f'find {home}/root -path "*$id*" -name config.json -exec cat {{}} +; }} || true'
        )
    said = space.run("\n".join(lines)).said
    found: dict[str, list[str] | str] = {}
    for part in said.split("@name ")[1:]:
        name, _, rest = part.partition("\n")
        words, _, config = rest.partition("@config\n")
        try:
            devices = json.loads(config)["linux"].get("devices") or []
        except ValueError:
            found[name] = words.strip()
        else:
            found[name] = [device["path"] for device in devices]
    return found


# --- containerd


def containerd_version() -> tuple[int, ...]:
    said = subprocess.run(["containerd", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\bv?(\d+)\.(\d+)\.(\d+)", said.partition("containerd/containerd")[2])
    assert found, said
    return tuple(int(number) for number in found.groups())


def ctr_resolves(space: Namespace, names: Iterable[str]) -> dict[str, list[str] | str]:
    """For each name the device nodes in the container that `ctr` makes with a containerd of its own."""
    home = space.scratch / "containerd"
    (home / "rootfs").mkdir(parents=True)
    private = f'root = "{home}/root"\nstate = "{home}/state"\n[grpc]\naddress = "{home}/sock"\n'
    (home / "config.toml").write_text(f"version = 2\n{private}")
    ctr = f"ctr --address {home}/sock"
    lines = [
        f"containerd --config {home}/config.toml >{home}/log 2>&1 & daemon=$!",
        f"for i in $(seq 400); do {ctr} version >/dev/null 2>&1 && break; sleep 0.05; done",
    ]
    for number, name in enumerate(names):
        lines.append(
            f"echo '@name {name}'; {ctr} containers create --device {shlex.quote(name)} --rootfs {home}/rootfs "
            f"c{number} /bin/true && {{ echo @config; {ctr} containers info c{number}; }} || true"
        )
    lines.append("kill $daemon; wait $daemon || true")
    said = space.run("\n".join(lines)).said
    found: dict[str, list[str] | str] = {}
    for part in said.split("@name ")[1:]:
        name, _, rest = part.partition("\n")
        words, _, config = rest.partition("@config\n")
        if not config:
            found[name] = words.strip()
            continue
        found[name] = [device["path"] for device in json.loads(config)["Spec"]["linux"].get("devices") or []]
    return found
