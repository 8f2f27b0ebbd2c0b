"""The part of /proc that agents look at: processes with what they have open, and a few facts of the kernel."""

import itertools
from collections.abc import Sequence

from tests.fakes.kernel.tree import Entry, File, Link, Tree

_BOOT_ID = "6f2f5a52-1d0c-4a4e-9d0a-2f3f8a5f6b10"


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

    def start(self, pid: int, command: str, opens: Sequence[str] = ()) -> None:
        """A process *command* that has the host's paths *opens* open."""
        entries: dict[str, Entry] = {
            "comm": File(f"{command[:15]}\n".encode(), 0o644),
            "cmdline": File(f"/usr/bin/{command}\0".encode(), 0o444),
            "cgroup": File(b"0::/\n", 0o444),
        }
        entries |= {f"fd/{number}": Link(path) for number, path in zip(itertools.count(3), opens)}
        self._tree.fill(self._proc / str(pid), entries)

    def end(self, pid: int) -> None:
        self._tree.remove(self._proc / str(pid))

    def set_command_line(self, text: str) -> None:
        """What the kernel was booted with."""
        self._tree.write(self._proc / "cmdline", f"{text}\n", 0o444)
