"""`doctor`'s checks of Kata: is it installed, does it plug GPUs before a VM starts, and does it ask the kubelet."""

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from kata_manager.kata_config import USUAL_PLACES, KataConfig, read_kata
from kata_manager.runtimes import Handler
from kata_manager.toml_files import read_with_drop_ins
from nodelib.doctor import Check, failed, passed, warned
from nodelib.errors import InvalidValue, NodeError
from nodelib.files import HostRoot


def check_kata(host: HostRoot, handlers: Sequence[Handler], kubelet_socket: str) -> Iterator[Check]:
    """The configuration of each of *handlers*; nothing without one, which has a check of its own."""
    if not handlers:
        return
    configs: dict[str, KataConfig] = {}
    faults: list[tuple[str, str]] = []
    for handler in handlers:
        try:
            configs[handler.name] = _read(host, handler)
        except NodeError as error:
            faults.append((f"{handler.name}: {error}", "install Kata's files for it, or mend its configuration"))
    if faults:
        yield failed("kata-config", *faults[0])
    else:
        yield passed("kata-config", ", ".join(dict.fromkeys(PurePosixPath(c.path).name for c in configs.values())))
    if configs:
        yield _cold_plug(configs)
        yield _asks_kubelet(configs, handlers, kubelet_socket)
        yield _files(host, configs)


def _read(host: HostRoot, handler: Handler) -> KataConfig:
    places = (handler.config_path,) if handler.config_path else USUAL_PLACES
    path = next((place for place in places if host.resolve(place).is_file()), None)
    if path is None:
        raise InvalidValue(f"there is no {places[0]}")
    files = read_with_drop_ins(host, path, str(PurePosixPath(path).parent / "config.d"))
    return read_kata(files)


def _cold_plug(configs: dict[str, KataConfig]) -> Check:
    for name, config in configs.items():
        if not config.cold_plugs:
            text = f"{name}: cold_plug_vfio is {config.cold_plug_vfio}, so its VMs start without a GPU"
            return failed("cold-plug", text, f'set cold_plug_vfio = "root-port" in {config.path}')
    return passed("cold-plug", ", ".join(dict.fromkeys(config.cold_plug_vfio for config in configs.values())))


def _asks_kubelet(configs: dict[str, KataConfig], handlers: Sequence[Handler], kubelet_socket: str) -> Check:
    for name, config in configs.items():
        socket = config.pod_resource_api_sock
        if not socket:
            annotations = next((handler.annotations for handler in handlers if handler.name == name), ())
            if any(pattern.startswith("cdi.k8s.io") or pattern == "*" for pattern in annotations):
                text = f"{name} asks no kubelet: pods name their GPU in an annotation"
            else:
                text = f"{name}: pod_resource_api_sock is not set, so Kata cannot learn which GPU a pod has"
            remedy = f'set pod_resource_api_sock = "{kubelet_socket}" in {config.path}'
            return (warned if "annotation" in text else failed)("kata-kubelet", text, remedy)
        if socket != kubelet_socket:
            text = f"{name}: pod_resource_api_sock is {socket}, the kubelet's is {kubelet_socket}"
            return failed("kata-kubelet", text, f"correct it in {config.path}")
    return passed("kata-kubelet", "Kata asks the kubelet's PodResources socket")


def _files(host: HostRoot, configs: dict[str, KataConfig]) -> Check:
    for name, config in configs.items():
        for key, path in config.files:
            if not host.resolve(path).exists():
                text = f"{name}: its {key} {path} is missing"
                return failed("kata-files", text, f"install Kata whole, or correct {key} in {config.path}")
    hypervisors = ", ".join(dict.fromkeys(config.hypervisor for config in configs.values()))
    return passed("kata-files", f"{hypervisors} and all that its VMs start from")
