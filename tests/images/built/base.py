"""A base image for the tests where no image registry can be reached: a small Debian with Python, made with mmdebstrap.

It is made once a machine and kept in the user's cache. Into it goes how this machine's pip finds its index, so that
builds in the tests find the same; nothing of that is in the repository or in an image that somebody builds for real.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

NAME = "localhost/cgpu-agents/test-base"
PROGRAMS = ("buildah", "mmdebstrap", "unshare", "setpriv")
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"

_RECIPE = (
    "mmdebstrap",
    "--quiet",
    "--variant=apt",
    "--include=python3-venv,ca-certificates",
    "--dpkgopt=force-unsafe-io",  # a power cut would cost a cache
    *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "info", "locale", "man")),
    "bookworm",  # the oldest Debian whose Python will do
)


class NotHere(Exception):
    """Why images cannot be built on this machine."""


@dataclass(frozen=True, slots=True)
class Buildah:
    """buildah with a store of its own, which leaves the machine's alone."""

    folder: Path

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            **os.environ,
            "BUILDAH_ISOLATION": "chroot",  # works without a runtime, cgroups and nested namespaces
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
        }

    def __call__(self, *arguments: str) -> str:
        """What it prints. A failure fails the test with its words."""
        result = subprocess.run(
            ("buildah", *arguments), env=self.environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, f"buildah {' '.join(arguments)}\n{result.stderr}"
        return result.stdout.strip()


@contextlib.contextmanager
def buildah_with_base(folder: Path) -> Iterator[Buildah]:
    """A store below *folder* that holds the base, gone at the end. Raises NotHere."""
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        raise NotHere(f"not installed: {', '.join(missing)}")
    if os.geteuid() != 0:
        raise NotHere("a root file system is made and mounted by root")
    archive = _base_archive()
    buildah = Buildah(folder)
    (folder / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/store"\nrunroot = "{folder}/run"\n'
    )
    try:
        container = buildah("from", "scratch")
        buildah("add", "--quiet", container, str(archive), "/")
        _let_pip_find_its_index(Path(buildah("mount", container)))
        buildah("config", "--env", "PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin", container)
        buildah("commit", "--quiet", "--rm", container, NAME)
        yield buildah
    finally:
        buildah("rm", "--all")  # unmounts
        shutil.rmtree(folder)


def _base_archive() -> Path:
    """The base as a tar archive, made now if this machine has none yet. Raises NotHere."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cgpu-agents"
    cache.mkdir(parents=True, exist_ok=True)
    archive = cache / f"base-{hashlib.sha256(' '.join(_RECIPE).encode()).hexdigest()[:12]}.tar"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worktree's tests may be at it
        if not archive.exists():
            half = archive.with_suffix(".half.tar")
            result = subprocess.run((*_RECIPE, str(half)), capture_output=True, text=True, check=False)
            if result.returncode != 0:
                half.unlink(missing_ok=True)
                raise NotHere(f"mmdebstrap could not make a base: {result.stderr.strip()[-300:]}")
            half.rename(archive)
    return archive


def _let_pip_find_its_index(root: Path) -> None:
    """Put this machine's index, and the certificates that it is trusted by, where the base's pip looks."""
    told = dict(
        line.partition("=")[::2]
        for line in subprocess.run(
            (sys.executable, "-m", "pip", "config", "list"), capture_output=True, text=True, check=True
        ).stdout.splitlines()
    )
    settings = {name.rpartition(".")[2]: value.strip("'\"") for name, value in told.items()}
    kept: dict[str, str] = {name: settings[name] for name in ("index-url", "trusted-host", "proxy") if name in settings}
    if certificates := settings.get("cert") or os.environ.get("SSL_CERT_FILE"):
        shutil.copyfile(certificates, root / CERTIFICATES)
    kept["cert"] = f"/{CERTIFICATES}"  # ensurepip's pip looks nowhere in the system by itself
    (root / "etc/pip.conf").write_text("[global]\n" + "".join(f"{name} = {kept[name]}\n" for name in kept))
