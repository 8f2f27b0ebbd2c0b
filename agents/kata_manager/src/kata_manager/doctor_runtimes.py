"""`doctor`'s checks of containerd and CRI-O: do they read our folder, and have they handlers for Kata."""

from collections.abc import Iterator, Sequence
from functools import cached_property

from kata_manager import containerd, crio
from kata_manager.containerd_version import ask_version
from kata_manager.runtimes import ConfigFile, Handler, RuntimeConfig
from kata_manager.toml_files import read_with_drop_ins, read_with_imports
from nodelib.doctor import Check, failed, passed, warned
from nodelib.errors import InvalidValue, NodeError
from nodelib.files import HostRoot
from nodelib.spec_files import FOLDERS

CONTAINERD_PLACES = (
    "/etc/containerd/config.toml",
    "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
    "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
)
"""Where distributions put it: containerd's own place, k3s, RKE2."""
_MOUNTS = "/runtime/"
"""Below this folder of the container, existing manifests mount containerd's configuration folder and socket folder."""


class Runtimes:
    """The runtimes of the host at *host*, as far as their configurations are to be seen."""

    def __init__(self, host: HostRoot, chosen: str, containerd_config: str, socket: str, crio_config: str) -> None:
        self._host = host
        self._chosen = chosen
        self._containerd_config = containerd_config
        self._socket = socket
        self._crio_config = crio_config

    def wants(self, runtime: str) -> bool:
        """Whether *runtime* was asked for, or is here and nothing was."""
        if self._chosen != "auto":
            return self._chosen == runtime
        return bool(self.containerd_path if runtime == "containerd" else self._has_crio)

    @cached_property
    def containerd_path(self) -> str:
        """containerd's configuration; empty if none is to be seen."""
        places = (self._containerd_config,) if self._containerd_config else CONTAINERD_PLACES
        return next((path for path in places if self._door(path).resolve(path).is_file()), "")

    @property
    def looked_for(self) -> str:
        return self._containerd_config or CONTAINERD_PLACES[0]

    @property
    def _has_crio(self) -> bool:
        folder = f"{self._crio_config}.d"
        return self._host.resolve(self._crio_config).is_file() or self._host.resolve(folder).is_dir()

    @cached_property
    def containerd_version(self) -> str:
        """As it says of itself; empty if nobody answers."""
        return ask_version(self._door(self._socket).resolve(self._socket))

    @cached_property
    def containerd_files(self) -> tuple[ConfigFile, ...]:
        """Raises NodeError for one that cannot be read."""
        path = self.containerd_path
        return read_with_imports(self._door(path), path) if path else ()

    def _door(self, path: str) -> HostRoot:
        """Where *path* is: on the host, or where an operator's manifest mounted it into this container."""
        mounted = path.startswith(_MOUNTS) and not self._host.resolve(path).exists()
        return HostRoot() if mounted else self._host

    def containerd_readings(self) -> tuple[RuntimeConfig, ...]:
        """What the containerd that runs makes of its configuration; if nobody knows which, what each may make of it.

        Raises NodeError if none would start with it.
        """
        known = containerd.major_of(self.containerd_version)
        readings, refusals = [], []
        for major in (1, 2) if known is None else (min(known, 2),):
            try:
                readings.append(containerd.read_as(major, self.containerd_files))
            except InvalidValue as error:
                refusals.append(error)
        if not readings:
            raise refusals[0]
        return tuple(dict.fromkeys(readings))

    @cached_property
    def crio(self) -> RuntimeConfig:
        """Raises NodeError for a file that cannot be read."""
        return crio.read(read_with_drop_ins(self._host, self._crio_config, f"{self._crio_config}.d"))

    def readings(self) -> tuple[RuntimeConfig, ...]:
        """What can be read of all that is wanted; what cannot has a check of its own."""
        found: list[RuntimeConfig] = []
        for runtime in ("containerd", "cri-o"):
            if self.wants(runtime):
                try:
                    found += self.containerd_readings() if runtime == "containerd" else (self.crio,)
                except NodeError:
                    continue
        return tuple(found)

    def gpu_handlers(self) -> tuple[Handler, ...]:
        """Kata's handlers for GPUs; all of Kata's if none is named for them."""
        kata = dict.fromkeys(handler for one in self.readings() for handler in one.handlers if handler.is_kata)
        return tuple(handler for handler in kata if handler.is_for_gpus) or tuple(kata)


def check_runtimes(runtimes: Runtimes, cdi_folder: str) -> Iterator[Check]:
    """One check for each runtime that is here; one that there is none."""
    if runtimes.wants("containerd"):
        yield _check_containerd(runtimes, cdi_folder)
    if runtimes.wants("cri-o"):
        yield _check_crio(runtimes, cdi_folder)
    if not runtimes.wants("containerd") and not runtimes.wants("cri-o"):
        text = "no configuration of containerd or CRI-O is to be seen"
        yield warned("runtime", text, "give --host-root the host's root, or --containerd-config or --crio-config")


def check_handlers(runtimes: Runtimes) -> Check:
    """Whether a RuntimeClass for GPUs has something to name."""
    readings = runtimes.readings()
    handlers = runtimes.gpu_handlers()
    names = ", ".join(dict.fromkeys(handler.name for handler in handlers))
    if not readings:
        return warned("handlers", "unknown: no runtime's configuration can be read", "see the checks above")
    if not handlers:
        return failed("handlers", "no runtime handler of Kata is configured", "install Kata, with kata-deploy say")
    if any(not any(handler.is_kata for handler in one.handlers) for one in readings):
        return _differing("handlers", f"only some containerd releases see {names}: imports replace each other in 1.x")
    if not any(handler.is_for_gpus for handler in handlers):
        remedy = "install kata-qemu-nvidia-gpu and, for confidential pods, its -snp or -tdx"
        return warned("handlers", f"none of Kata's is for GPUs: {names}", remedy)
    if exposed := [handler.name for handler in handlers if not handler.privileged_without_host_devices]:
        text = f"{exposed[0]} lacks privileged_without_host_devices, so privileged pods get the host's devices"
        return warned("handlers", text, "set it to true in that handler's table")
    return passed("handlers", names)


def _check_containerd(runtimes: Runtimes, cdi_folder: str) -> Check:
    if not runtimes.containerd_path:
        text = f"its configuration {runtimes.looked_for} is not to be seen"
        return warned("containerd", text, "give --host-root the host's root, or --containerd-config")
    try:
        readings = runtimes.containerd_readings()
    except NodeError as error:
        return failed("containerd", f"it would not start: {error}", "mend that file and restart containerd")
    version = runtimes.containerd_version
    if version.startswith(("1.6", "1.5", "v1.6", "v1.5")):
        return warned("containerd", f"{version} knows no CDI; Kata reads the specs itself", "run 1.7 or later")
    if len({(one.reads_cdi, one.spec_dirs) for one in readings}) > 1:
        return _differing(
            "containerd", "releases 1.x and 2.x read it differently as to CDI, and nobody tells which runs"
        )
    return _check_folders(readings[0], cdi_folder, version)


def _check_crio(runtimes: Runtimes, cdi_folder: str) -> Check:
    try:
        return _check_folders(runtimes.crio, cdi_folder, "")
    except NodeError as error:
        return failed("cri-o", f"it would not start: {error}", "mend that file and restart CRI-O")


def _check_folders(config: RuntimeConfig, cdi_folder: str, version: str) -> Check:
    """Kata reads the specs itself, from the usual folders; the runtime needs them where a plugin answers CDI names."""
    name, said = config.runtime, f"{version}, " if version else ""
    folders = ", ".join(config.spec_dirs)
    if not config.reads_cdi:
        text = f"{said}enable_cdi is off; Kata reads the specs itself"
        return warned(name, text, "set enable_cdi = true, if device-plugin runs with --device-list-strategy cdi-cri")
    if not _holds(config.spec_dirs, cdi_folder):
        text = f"{said}cdi_spec_dirs are {folders}, without {cdi_folder}"
        return failed(name, text, f"add {cdi_folder} to cdi_spec_dirs and restart it")
    if not _holds(FOLDERS, cdi_folder):
        text = f"{said}it reads {cdi_folder}, but Kata itself reads only {' and '.join(FOLDERS)}"
        return failed(name, text, "run kata-manager with --cdi-dir /var/run/cdi")
    return passed(name, f"{said}reads CDI specs from {folders}")


def _holds(folders: Sequence[str], folder: str) -> bool:
    """/run is /var/run on every host of this time."""
    return any(_plain(one) == _plain(folder) for one in folders)


def _plain(folder: str) -> str:
    return folder.rstrip("/").removeprefix("/var") if folder.startswith("/var/run/") else folder.rstrip("/")


def _differing(name: str, text: str) -> Check:
    return warned(name, text, "give --containerd-socket, or put all of that plugin's table into one file")
