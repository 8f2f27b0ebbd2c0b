"""Who has devices open, as plain values, and how the texts of /proc become them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

_NUMBER = re.compile(r"([0-9]{1,10}):([0-9]{1,10})")
_NVIDIA_MINOR = re.compile(r"^Device Minor:[ \t]*([0-9]{1,10})[ \t]*$", re.MULTILINE)
_NVIDIA_MAJOR = 195
"""Of every /dev/nvidiaN (Linux, Documentation/admin-guide/devices.txt)."""
_COMMAND_CHARACTERS = 64
"""As many as /proc shows of any name (Linux, fs/proc/array.c, proc_task_name)."""

# The kubelet's two ways to name a pod's cgroup (kubernetes, pkg/kubelet/cm/cgroup_manager_linux.go): a folder
# `pod<uid>`, or a slice that repeats the names above it and has `_` for each `-` of the uid. The uid of a static pod
# is a hash without dashes. Some runtimes write `<slice>:<prefix>:<container>` where the drivers disagree.
_POD = re.compile(
    r"/(?:[^/]*kubepods(?:-[a-z]+)?-)?pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?![\w-])"
)


@dataclass(frozen=True, order=True, slots=True)
class DeviceNumber:
    """What a character device is to the kernel, whatever its nodes are called."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The number that a `dev` attribute of sysfs spells (`243:65`). Raises ValueError."""
        if not (match := _NUMBER.fullmatch(text)):
            raise ValueError(f"{text[:40]!r} is no device number")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.major}:{self.minor}"


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has a device open."""

    pid: int
    """As the host counts."""
    command: str
    """Fit to be printed: a process may call itself anything."""
    pod_uid: str | None = None
    """None for a process of the host, and where its cgroup is not below its pod's (Kata's overhead cgroup)."""

    def __str__(self) -> str:
        pod = f", pod {self.pod_uid}" if self.pod_uid else ""
        return f"{self.command} (pid {self.pid}{pod})"


@dataclass(frozen=True, slots=True)
class Holders:
    """What one look at all processes found."""

    found: tuple[tuple[DeviceNumber, Holder], ...] = ()
    complete: bool = True
    """Whether every process could be looked into; if not, nobody found means nothing.

    Even a complete look sees open descriptors only: no mapping that outlives its descriptor, no descriptor on its way
    through a socket. A device that says it is in use is in use, whoever is found.
    """

    def of(self, *numbers: DeviceNumber) -> tuple[Holder, ...]:
        """Who has one of *numbers* open, each process once, by pid."""
        return tuple(sorted({holder for number, holder in self.found if number in numbers}, key=lambda h: h.pid))


@dataclass(frozen=True, slots=True)
class HeldBy:
    """Who has one device open."""

    holders: tuple[Holder, ...] = ()
    complete: bool = True
    """Whether every process could be looked into."""

    def __str__(self) -> str:
        return ", ".join(map(str, self.holders)) if self.holders else "its holder is not visible"


def valid_numbers(texts: Iterable[str]) -> tuple[DeviceNumber, ...]:
    """The device numbers among *texts*, sorted and each once; what makes no sense is left out."""
    matches = (match for text in texts if (match := _NUMBER.fullmatch(text)))
    return tuple(sorted({DeviceNumber(int(match[1]), int(match[2])) for match in matches}))


def nvidia_number(information: str) -> DeviceNumber | None:
    """The number of /dev/nvidiaN, from the text that the nvidia driver has in /proc for this GPU."""
    match = _NVIDIA_MINOR.search(information)
    return DeviceNumber(_NVIDIA_MAJOR, int(match[1])) if match else None


def printable_command(comm: bytes) -> str:
    """The content of /proc/<pid>/comm in printable characters.

    The kernel escapes nothing there (fs/proc/base.c, comm_show), and a container chooses its own names: a line break
    or a terminal's control sequence in one must not reach a log.
    """
    text = comm.removesuffix(b"\n").decode("utf-8", "backslashreplace")[:_COMMAND_CHARACTERS]
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text) or "?"


def pod_uid_of(cgroup: str) -> str | None:
    """The uid of the pod that /proc/<pid>/cgroup (v1 or v2) names.

    The outermost one: what a container makes below its own cgroup may be called anything. A reader in a cgroup
    namespace of its own sees paths that begin with `/../`; for another pod the part with the uid is still there.
    """
    for line in cgroup.splitlines():
        path = line.split(":", 2)[-1]
        if match := _POD.search(path):
            return match[1].replace("_", "-")
    return None
