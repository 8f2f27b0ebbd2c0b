"""`doctor`: whether pods of this node can be given their GPUs by CDI name; each check with finding and remedy.

Files are read, and the kubelet and containerd are asked one question each; nothing is written.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kata_manager.doctor_kata import check_kata
from kata_manager.doctor_runtimes import Runtimes, check_handlers, check_runtimes
from kata_manager.reconcile import SpecKeeper
from kata_manager.settings import VHOST_MODULES
from nodelib.doctor import PRESENT, Check, failed, legible, passed, warned
from nodelib.errors import InvalidValue, NodeError
from nodelib.modules import KernelModules
from nodelib.node import Node
from nodelib.pod_resources import POD_RESOURCES_SOCKET, KubeletUnreachable, PodResourcesError
from nodelib.vfio import AssignableDevice


@dataclass(frozen=True, slots=True)
class Where:
    """Where the node's programs are, as the options say."""

    runtime: str = "auto"
    """`auto`, `containerd` or `cri-o`."""
    containerd_config: str = ""
    """Empty: the first that is there of the usual places."""
    containerd_socket: str = "/run/containerd/containerd.sock"
    crio_config: str = "/etc/crio/crio.conf"
    pod_resources_socket: str = POD_RESOURCES_SOCKET


def examine(node: Node, keeper: SpecKeeper, cdi_folder: str, where: Where) -> tuple[Check, ...]:
    """Every check, in the order in which one depends on the other."""
    return tuple(_checks(node, keeper, cdi_folder, where))


def _checks(node: Node, keeper: SpecKeeper, cdi_folder: str, where: Where) -> Iterator[Check]:
    yield _cdi_folder(keeper.folder)
    yield _cdi_specs(keeper)
    yield _cdi_names(keeper)
    yield _modules(node)
    runtimes = Runtimes(node.host, where.runtime, where.containerd_config, where.containerd_socket, where.crio_config)
    yield from check_runtimes(runtimes, cdi_folder)
    yield check_handlers(runtimes)
    yield from check_kata(node.host, runtimes.gpu_handlers(), where.pod_resources_socket)
    yield _kubelet(node, where.pod_resources_socket)


def _cdi_folder(folder: Path) -> Check:
    """Whether we can write there, and runtimes can read it."""
    if folder.exists() and not folder.is_dir():
        return failed("cdi-folder", f"{folder} is no folder", "move away what is there")
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        return failed("cdi-folder", f"{there} is not writable from here", "run as root, and mount it writable")
    if there != folder:
        return passed("cdi-folder", f"{folder} can be made")
    mode = folder.stat().st_mode & 0o7777
    if mode & 0o022 and not mode & 0o1000:
        return warned("cdi-folder", f"anybody may write to {folder} ({mode:04o})", f"run: chmod 755 {folder}")
    if mode & 0o055 != 0o055:
        return warned("cdi-folder", f"not everybody may read {folder} ({mode:04o})", f"run: chmod 755 {folder}")
    return passed("cdi-folder", f"{folder} is writable")


def _cdi_specs(keeper: SpecKeeper) -> Check:
    """Whether anything keeps runtimes from loading the folders; one fault of anybody stops Kata's every pod."""
    try:
        problems = dict.fromkeys((*keeper.plan_specs().problems, *keeper.resolution().problems))
    except NodeError as error:
        return failed("cdi-specs", str(error), "make that folder readable")
    if problems:
        first = next(iter(problems))
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        return failed("cdi-specs", f"{first.text}{more}", f"{first.remedy}; see kata-manager check")
    return passed("cdi-specs", f"{len(keeper.resolution().nodes)} names resolve, no file is broken or in conflict")


def _cdi_names(keeper: SpecKeeper) -> Check:
    devices = keeper.devices()
    if not devices:
        without = keeper.left_out()
        if without:
            return failed(
                "cdi-names", without[0].partition(";")[0], without[0].partition("; ")[2] or "see vfio-manager"
            )
        return passed("cdi-names", "no NVIDIA device on this node: nothing to name")
    nodes = keeper.resolution().nodes
    unlisted = [device for device in devices if not device.is_resolvable]
    unwritten = [name for device in devices if device.is_resolvable and nodes.get(name := _name(device)) is None]
    if unwritten:
        text = f"{len(unwritten)} of {len(devices)} devices have no spec yet: {unwritten[0]}"
        return failed("cdi-names", text, "run kata-manager run, or once: kata-manager spec --write")
    if unlisted:
        reason = unlisted[0].problems[0]
        text = f"{len(unlisted)} of {len(devices)} devices cannot be named: {_name(unlisted[0])}: {reason.text}"
        return warned("cdi-names", text, reason.remedy or "see kata-manager status")
    return passed("cdi-names", f"all {len(devices)} devices resolve")


def _name(device: AssignableDevice) -> str:
    return f"{device.resource}={device.id}"


def _modules(node: Node) -> Check:
    states = {name: _state(KernelModules(node.host, node.modprobe), name) for name in VHOST_MODULES}
    text = ", ".join(f"{name} {state}" for name, state in states.items())
    if absent := [name for name, state in states.items() if state == "absent"]:
        return failed("vhost-modules", text, f"install the package that has {absent[0]} for the running kernel")
    if unknown := [name for name, state in states.items() if state == "unknown"]:
        return warned("vhost-modules", text, f"mount the host's /lib/modules, or run there: modprobe {unknown[0]}")
    if missing := [name for name, state in states.items() if state not in PRESENT]:
        remedy = f"run: modprobe {missing[0]}; kata-manager run loads it unless LOAD_KERNEL_MODULES=false"
        return warned("vhost-modules", text, remedy)
    return passed("vhost-modules", text)


def _state(modules: KernelModules, name: str) -> str:
    try:
        if modules.is_loaded(name):
            return "loaded"
        if modules.is_builtin(name):
            return "built in"
        return "loadable" if modules.is_present(name) else "absent"
    except NodeError:
        return "unknown"


def _kubelet(node: Node, socket: str) -> Check:
    """Kata asks the kubelet which devices a pod has; without an answer it plugs none, or refuses the pod."""
    from nodelib.pod_resources_client import PodResourcesClient  # grpc: for this verb alone

    client = PodResourcesClient(node.host.resolve(socket))
    try:
        if client.offers_get():
            return passed("kubelet", "PodResources answers, Get included")
    except KubeletUnreachable as error:
        return failed("kubelet", legible(str(error), 200), "Kata cannot learn which GPU a pod has without it")
    except (PodResourcesError, InvalidValue) as error:
        return failed("kubelet", legible(str(error), 200), "look at the kubelet's log")
    remedy = "run Kubernetes 1.34 or later, or switch the feature gate KubeletPodResourcesGet on"
    return failed("kubelet", "PodResources answers, but its Get is disabled", remedy)
