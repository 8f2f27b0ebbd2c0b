"""The part of /proc that agents look at: processes with what they have open, and a few facts of the kernel."""

import itertools
import os
import stat
from collections.abc import Sequence
from pathlib import PurePosixPath

from tests.fakes.kernel.tree import Entry, File, Folder, Link, Tree

_BOOT_ID = "6f2f5a52-1d0c-4a4e-9d0a-2f3f8a5f6b10"
_NVIDIA_MAJOR = 195


class Processes:
    def __init__(self, tree: Tree, release: str) -> None:
        self._tree = tree
        self._proc = tree.root / "proc"
        facts = {
            "cmdline": "BOOT_IMAGE=/vmlinuz ro quiet intel_iommu=on iommu=pt",
            "version": f"Linux version {release} (simulated)",
            "sys/kernel/osrelease": release,
            "sys/kernel/random/boot_id": _BOOT_ID,
        }
        tree.fill(self._proc, {name: File(f"{text}\n".encode(), 0o444) for name, text in facts.items()})
        self.start(2, "kthreadd")  # as on every host, and in no container's own /proc

    def start(self, pid: int, command: str, opens: Sequence[str] = (), *, cgroup: str = "/") -> None:
        """A process *command* that has the host's paths *opens* open.

        Its descriptors are links with the right text that lead nowhere: see `hold`.
        """
        entries: dict[str, Entry] = {
            "comm": File(f"{command[:15]}\n".encode(), 0o644),
            "cmdline": File(f"/usr/bin/{command}\0".encode(), 0o444),
            "cgroup": File(f"0::{cgroup}\n".encode(), 0o444),
            "fd": Folder(),
        }
        entries |= {f"fd/{number}": Link(path) for number, path in zip(itertools.count(3), opens)}
        self._tree.fill(self._proc / str(pid), entries)

    def hold(self, pid: int, *paths: str) -> None:
        """Give the process a descriptor that leads to a true character device with the number of each of *paths*.

        The text of such a link is not the host's path, as the fake has no magic links. Raises PermissionError where
        the machine that runs the tests lets nobody make device nodes (CAP_MKNOD).
        """
        fd, nodes = self._proc / str(pid) / "fd", self._proc / ".nodes"
        nodes.mkdir(exist_ok=True)
        for path in paths:
            major, minor = self._number_of(PurePosixPath(path))
            node = nodes / f"{major}-{minor}"
            if not node.exists():
                os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(major, minor))
            number = next(n for n in itertools.count(100) if not (fd / str(n)).is_symlink())
            (fd / str(number)).symlink_to(node)

    def show_nvidia_gpu(self, address: str, minor: int) -> None:
        """What the nvidia driver tells of its GPU /dev/nvidia<minor>."""
        text = f"Model: \t\t NVIDIA H200\nIRQ:   \t\t 0\nBus Location: \t {address}\nDevice Minor: \t {minor}\n"
        self._tree.fill(self._proc / "driver/nvidia/gpus" / address, {"information": File(text.encode(), 0o444)})

    def end(self, pid: int) -> None:
        self._tree.remove(self._proc / str(pid))

    def set_command_line(self, text: str) -> None:
        """What the kernel was booted with."""
        self._tree.write(self._proc / "cmdline", f"{text}\n", 0o444)

    def _number_of(self, path: PurePosixPath) -> tuple[int, int]:
        if path.name.startswith("nvidia"):
            return _NVIDIA_MAJOR, int(path.name.removeprefix("nvidia"))
        folder = "vfio-dev" if path.parent.name == "devices" else "vfio"
        major, minor = (self._tree.sys / "class" / folder / path.name / "dev").read_text().split(":")
        return int(major), int(minor)
