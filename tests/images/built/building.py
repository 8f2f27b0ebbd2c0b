"""Building one image, as `make images` does."""

import subprocess
import sys
from pathlib import Path

from tests.images.built.base import NAME as BASE
from tests.images.built.base import Buildah

EPOCH = "1000000000"
REGISTRY = "localhost/cgpu-tests"


def build(buildah: Buildah, root: Path, name: str, tag: str) -> str:
    """Build an image from the tree at *root*; the line that says how large it became."""
    result = subprocess.run(
        (
            sys.executable,
            "-m",
            "images.build",
            "--engine",
            "buildah",
            "--base",
            BASE,
            "--registry",
            REGISTRY,
            "--tag",
            tag,
            name,
        ),
        cwd=root,
        env={**buildah.environment, "SOURCE_DATE_EPOCH": EPOCH},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.splitlines()[-1] + "\n"
