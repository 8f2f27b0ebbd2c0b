"""Kernel modules of the host: which are there, built in or loaded, and the one door to modprobe.

Files: depmod(8) for modules.dep, Linux, Documentation/kbuild/kbuild.rst for modules.builtin, and
Documentation/ABI/stable/sysfs-module for /sys/module. modprobe's words are those of kmod 30.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, assert_never

from nodelib.errors import InvalidValue, NodeError, NotSupported
from nodelib.files import HostRoot
from nodelib.sysfs import Sysfs

LOAD_S = 30.0
"""A module's own start runs in modprobe: a driver takes and trains its devices in it."""

_RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,63}")
"""At most what uname(2) has room for; it becomes part of a path."""
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_DEFAULT_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_MAX_WORDS = 300

# Where signatures are enforced, older kernels answer ENOKEY and newer ones EKEYREJECTED (kernel/module/signing.c).
_SIGNATURE_REFUSED = ("Required key not available", "Key was rejected by service")
_FORBIDDEN = ("Operation not permitted", "Permission denied")


@dataclass(frozen=True, slots=True)
class Ended:
    """modprobe is over; *said* is what it wrote to standard error."""

    status: int
    said: str = ""


@dataclass(frozen=True, slots=True)
class Hung:
    """modprobe was killed at its deadline; inside the kernel it may live on."""

    pid: int
    is_alive: Callable[[], bool]


class ModprobeRunner(Protocol):
    """What runs modprobe; the simulated node of the tests puts its own kernel here."""

    def __call__(self, arguments: Sequence[str], timeout_s: float, /) -> Ended | Hung:
        """Run it with *arguments*, the module's name last. Raises OSError if it cannot be started."""


def run_modprobe(
    arguments: Sequence[str], timeout_s: float, environment: Mapping[str, str] = os.environ
) -> Ended | Hung:
    """The real modprobe, as found in the PATH of *environment*, of which it is given nothing else.

    (It would take options from MODPROBE_OPTIONS; modprobe(8).)
    """
    path = environment.get("PATH", _DEFAULT_PATH)
    program = shutil.which("modprobe", path=path)
    if program is None:
        raise FileNotFoundError(f"there is no modprobe in the PATH {path}")
    process = subprocess.Popen(
        (program, *arguments),
        env={"PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,  # so that what an `install` line of modprobe.d runs is killed with it
    )
    try:
        _, said = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as late:
        if process.stderr:
            process.stderr.close()
        if process.poll() is None:
            return _leave_behind(process)
        said = late.stderr or b""  # it ended, and only what it started still holds the pipe
    return Ended(process.returncode, said.decode(errors="replace"))


def _leave_behind(process: subprocess.Popen[bytes]) -> Hung:
    """Kill *process* without waiting: inside the kernel it dies only when the kernel lets go."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    waiting = threading.Thread(target=process.wait, name=f"modprobe {process.pid}", daemon=True)
    waiting.start()
    return Hung(process.pid, waiting.is_alive)


class KernelModules:
    """The modules of the kernel that runs, as the host's files tell; everywhere `-` and `_` are the same in a name.

    Every method raises InvalidValue for what cannot be a module's name. Not for several threads at once.
    """

    def __init__(self, host: HostRoot, run: ModprobeRunner = run_modprobe) -> None:
        self._host = host
        self._run = run
        self._hung: dict[str, Hung] = {}
        self._lists: dict[Path, tuple[tuple[int, ...], frozenset[str]]] = {}

    def release(self) -> str:
        """The release of the kernel that runs, which names its folder in /lib/modules."""
        told = self._read("/proc/sys/kernel/osrelease")
        return told if _RELEASE.fullmatch(told) else os.uname().release

    def is_loaded(self, name: str) -> bool:
        """Whether it is in /sys/module. Raises NotSupported without that folder.

        A built-in module is there only if it has parameters or a version.
        """
        module = _canonical(name)
        folder = self._host.root / "sys/module"
        if not folder.is_dir():
            raise NotSupported(
                f"cannot see which kernel modules are loaded: there is no {folder}; mount the host's /sys"
            )
        return (folder / module).is_dir()

    def is_builtin(self, name: str) -> bool:
        """Whether it is part of the kernel itself. Raises NodeError where the host's modules are not to be seen."""
        return _canonical(name) in self._listed("modules.builtin")

    def is_present(self, name: str) -> bool:
        """Whether it could be loaded from the host's files. Raises NodeError where those are not to be seen."""
        return _canonical(name) in self._listed("modules.dep")

    def load(self, name: str, timeout_s: float = LOAD_S) -> bool:
        """Have the module loaded; whether that needed doing. Raises NodeError with modprobe's words and the remedy.

        After *timeout_s* modprobe is killed, not waited for, and not run again for this module while it lives.
        """
        module = _canonical(name)
        if self.is_loaded(module):
            return False
        with contextlib.suppress(NodeError):  # without the list modprobe still knows, or says what is wrong
            if self.is_builtin(module):
                return False
        self._refuse_while_hung(module)
        match self._modprobe(module, timeout_s):
            case Hung() as hung:
                self._hung[module] = hung
                raise _failure(
                    module,
                    f"modprobe did not end within {timeout_s:g} s and was killed",
                    f"the kernel may still be at it: see the kernel log and /proc/{hung.pid}/stack",
                )
            case Ended(status, said) if not self.is_loaded(module):
                raise self._explained(module, status, said)
            case Ended():  # loaded is what counts, even where modprobe failed because another was faster
                return True
            case outcome:
                assert_never(outcome)

    def _modprobe(self, module: str, timeout_s: float) -> Ended | Hung:
        root = self._host.root
        where = () if root == Path("/") else ("--dirname", str(root))
        try:
            return self._run((*where, "--", module), timeout_s)
        except OSError as error:
            raise _failure(
                module,
                f"cannot run modprobe ({error.strerror or error})",
                f"install kmod where this agent runs, or run on the host: modprobe {module}",
            ) from error

    def _refuse_while_hung(self, module: str) -> None:
        hung = self._hung.pop(module, None)
        if hung is not None and hung.is_alive():
            self._hung[module] = hung
            reason = f"the kernel still holds an earlier modprobe (process {hung.pid})"
            raise _failure(module, reason, f"see the kernel log and /proc/{hung.pid}/stack")

    def _explained(self, module: str, status: int, said: str) -> NodeError:
        """Why modprobe ended with *status* and the module is not loaded, with what to do about it."""
        lines = [line for line in map(str.strip, said.splitlines()) if line]
        if status == 0:
            return _failure(
                module,
                f"modprobe reported success, but there is no {self._host.root}/sys/module/{module}",
                "see modprobe.d for an alias or an install line of that name",
            )
        words = lines[-1][:_MAX_WORDS] if lines else f"modprobe ended with status {status} and said nothing"
        return _failure(module, words, self._remedy(module, said))

    def _remedy(self, module: str, said: str) -> str:
        if "blacklisted" in said or "install command" in said:
            return "remove its blacklist or install line from modprobe.d"
        if "not found" in said:
            folder = self._host.resolve(f"/lib/modules/{self.release()}")
            if not folder.is_dir():
                return f"there is no {folder}: mount the host's /lib/modules"
            return f"the kernel {self.release()} has no such module: install its package of further modules"
        if any(words in said for words in _SIGNATURE_REFUSED):
            return "the kernel takes signed modules only (Secure Boot): sign it with a key that the kernel trusts"
        if any(words in said for words in _FORBIDDEN):
            return self._who_forbids(module)
        return "see the kernel log"

    def _who_forbids(self, module: str) -> str:
        """The kernel has one EPERM for four reasons (Linux, kernel/module/main.c and signing.c)."""
        for word in self._read("/proc/cmdline").split():
            key, _, modules = word.partition("=")
            if key == "module_blacklist" and module in modules.split(","):
                return "it is blacklisted on the kernel command line: remove it from module_blacklist="
        if self._read("/proc/sys/kernel/modules_disabled") == "1":
            return "loading modules is off until the next boot (sysctl kernel.modules_disabled)"
        if lockdown := Sysfs(self._host).lockdown():
            return f"kernel lockdown ({lockdown}) is in force: sign the module with a key that the kernel trusts"
        return "run as root with the capability SYS_MODULE"

    def _listed(self, file: str) -> frozenset[str]:
        """The modules that a list of depmod's names; read again only when depmod has replaced it."""
        path = self._host.resolve(f"/lib/modules/{self.release()}/{file}")
        try:
            with path.open(encoding="utf-8", errors="replace") as lines:
                status = os.fstat(lines.fileno())
                stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
                if path not in self._lists or self._lists[path][0] != stamp:
                    self._lists[path] = (stamp, frozenset(map(_listed_name, lines)))
        except OSError as error:
            raise NodeError(f"cannot read {path} ({error.strerror}): mount the host's /lib/modules") from error
        return self._lists[path][1]

    def _read(self, path: str) -> str:
        """The text of a small file of the host; empty if it cannot be read."""
        try:
            return self._host.resolve(path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""


def _canonical(name: str) -> str:
    """*name* as /sys and the kernel spell it. The check also keeps it from being a path or an option."""
    if not _NAME.fullmatch(name):
        raise InvalidValue(f"{name!r} is no kernel module: a name holds only letters, digits, - and _")
    return name.replace("-", "_")


def _listed_name(line: str) -> str:
    """`kernel/drivers/vhost/vhost-net.ko.zst: ...` is vhost_net."""
    file = line.partition(":")[0].strip().rpartition("/")[2]
    return file.partition(".")[0].replace("-", "_")


def _failure(module: str, reason: str, remedy: str) -> NodeError:
    return NodeError(f"could not load the kernel module {module}: {reason}; {remedy}")
