"""An image's file tree, mounted, and commands in it as a kubelet with tight security settings would run them."""

import contextlib
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodelib.files import HostRoot
from tests.images.built.base import Buildah

# Mounts of its own, the root read-only if asked, then the volumes; what runs in the end is this very process.
_ENTER = """set -e
root=$1; how=$2; shift 2
mount --bind "$root" "$root"
mount -o remount,bind,$how "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
while [ "$1" != -- ]; do mount --rbind "$1" "$2"; shift 2; done
shift
exec chroot "$root" "$@"
"""
_NO_CAPABILITY = ("/usr/bin/setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--")

Volumes = Mapping[Path, str]


@dataclass(frozen=True, slots=True)
class Image:
    """One built image."""

    layers: tuple[str, ...]
    """The digests of its layers, the base's first."""
    config: Mapping[str, Any]
    """As in the OCI image specification: Env, Entrypoint, Cmd, User, Labels."""
    root: Path

    @property
    def entry_point(self) -> list[str]:
        return list(self.config["Entrypoint"])

    @property
    def default_arguments(self) -> list[str]:
        return list(self.config["Cmd"])

    @property
    def environment(self) -> dict[str, str]:
        return dict(line.partition("=")[::2] for line in self.config["Env"])

    def holds(self, path: str) -> bool:
        return (self.root / path).exists()

    def command(
        self, command: Sequence[str], volumes: Volumes, environment: Mapping[str, str], *, root_is: str = "ro"
    ) -> list[str]:
        """What runs *command* as uid 0 without any capability, on a root that is `ro` or `rw`, with *volumes*."""
        tree = HostRoot(self.root)  # an absolute link in the image (/var/run -> /run) must not lead out of it
        places = {outside: tree.resolve(inside) for outside, inside in volumes.items()}
        for place in places.values():
            place.mkdir(parents=True, exist_ok=True)
        mounts = [str(part) for volume in places.items() for part in volume]
        variables = [f"{name}={value}" for name, value in {**self.environment, **environment}.items()]
        return [
            *("unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, "sh", str(self.root), root_is),
            *mounts, "--", "/usr/bin/env", "-i", *variables, *_NO_CAPABILITY, *command,
        ]  # fmt: skip

    def run(
        self, *command: str, volumes: Volumes | None = None, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self.command(command, volumes or {}, environment or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    @contextlib.contextmanager
    def started(
        self,
        *command: str,
        volumes: Volumes | None = None,
        environment: Mapping[str, str] | None = None,
        root_is: str = "ro",
    ) -> Iterator[subprocess.Popen[str]]:
        """A command that runs until it is told to stop, or until the end of the block."""
        with subprocess.Popen(
            self.command(command, volumes or {}, environment or {}, root_is=root_is),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()


def mounted(buildah: Buildah, name: str) -> Image:
    """The image called *name*, with its tree mounted until the store goes."""
    told = json.loads(buildah("inspect", "--type", "image", name))
    container = buildah("from", "--pull-never", name)
    return Image(tuple(told["OCIv1"]["rootfs"]["diff_ids"]), told["OCIv1"]["config"], Path(buildah("mount", container)))
