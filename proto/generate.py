#!/usr/bin/env python3
"""Turns the kubelet's contracts into the checked-in stubs, or says which of those are stale."""

import argparse
import sys
import sysconfig
import tempfile
from pathlib import Path

from grpc_tools import protoc

PROTO_FOLDER = Path(__file__).resolve().parent
SOURCE_FOLDER = PROTO_FOLDER.parent / "agents" / "nodelib" / "src"
# The stubs import each other as protoc saw their files: the folder of contracts has to look like
# the package that they end up in.
PACKAGE_FOLDER = Path("nodelib", "kubelet")
SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


def generate(target: Path) -> None:
    # protoc looks for plugins on PATH, where those of an environment that is not activated are not.
    scripts = Path(sysconfig.get_path("scripts"))
    arguments = [
        "protoc",
        f"-I{PACKAGE_FOLDER}={PROTO_FOLDER}",
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--plugin=protoc-gen-mypy={scripts / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}",
        f"--mypy_out=quiet:{target}",
        # Without only_sync every type is a union with its asyncio twin, which strict users would
        # have to take apart at each call.
        f"--mypy_grpc_out=quiet,only_sync:{target}",
        *(str(PACKAGE_FOLDER / contract.name) for contract in contracts()),
    ]
    if protoc.main(arguments) != 0:
        sys.exit("protoc refused the contracts; its reason is above")


def contracts() -> list[Path]:
    return sorted(PROTO_FOLDER.glob("*.proto"))


def wanted_names() -> set[str]:
    return {contract.stem + suffix for contract in contracts() for suffix in SUFFIXES}


def checked_in_files() -> list[Path]:
    return sorted((SOURCE_FOLDER / PACKAGE_FOLDER).glob("*_pb2*.py*"))


def stale_files() -> list[Path]:
    """Checked-in stubs that a fresh generation would change, add or no longer write."""
    checked_in = SOURCE_FOLDER / PACKAGE_FOLDER
    names = wanted_names() | {path.name for path in checked_in_files()}
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = Path(folder) / PACKAGE_FOLDER
        stale = {name for name in names if content(checked_in / name) != content(fresh / name)}
    return [checked_in / name for name in sorted(stale)]


def regenerate() -> None:
    generate(SOURCE_FOLDER)
    for path in checked_in_files():
        if path.name not in wanted_names():
            path.unlink()


def content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check",
        action="store_true",
        help="change nothing; exit 1 if a checked-in stub is stale",
    )
    if not parser.parse_args().check:
        regenerate()
        return
    stale = [str(path.relative_to(PROTO_FOLDER.parent)) for path in stale_files()]
    if stale:
        sys.exit(f"stale, run proto/generate.py: {', '.join(stale)}")


if __name__ == "__main__":
    main()
