"""`doctor`: whether this node's GPUs can be given to pods from here; each check with what was found and the remedy.

Nothing is changed. The kubelet is asked which pods have our devices; its own socket is only connected to.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import assert_never

from device_plugin.endpoint import MAX_PATH_BYTES, answers, endpoint_path
from device_plugin.inventory import Devices, by_resource, summary
from device_plugin.outside import Outside
from device_plugin.settings import CdiMode, Settings
from device_plugin.specs import Specs
from device_plugin.watch import UEVENT_SUBSYSTEMS
from nodelib.doctor import Check, failed, passed, warned
from nodelib.errors import InvalidValue, NodeError
from nodelib.inventory import Inventory
from nodelib.names import ResourceName
from nodelib.node import Node
from nodelib.output import grouped
from nodelib.pod_resources import KubeletUnreachable, PodDevices, PodResources, PodResourcesError
from nodelib.spec_files import DYNAMIC_FOLDER
from nodelib.vfio import without_group
from nodelib.wakeups import Wakeups


def examine(node: Node, settings: Settings, pod_resources: PodResources) -> tuple[Check, ...]:
    """Every check that has a subject on this node."""
    return tuple(_Doctor(node, settings, pod_resources).checks())


class _Doctor:
    def __init__(self, node: Node, settings: Settings, pod_resources: PodResources) -> None:
        self._node = node
        self._settings = settings
        self._pod_resources = pod_resources
        self._outside = Outside(node, settings)

    def checks(self) -> Iterator[Check]:
        devices, inventory = self._outside.devices()
        resources = by_resource(devices)
        yield _devices(devices)
        yield _left_out(inventory)
        yield _host_dev(inventory)
        yield _plugin_folder(self._outside.folder)
        yield _socket_paths(self._outside.folder, resources)
        yield self._kubelet()
        if resources:
            yield self._served(resources)
        yield from self._pods(resources)
        yield self._cdi(devices)
        events = self._node.events(Wakeups(), UEVENT_SUBSYSTEMS)
        yield _events("uevents", events, "install libudev where this agent runs, and allow it netlink sockets")
        if self._outside.folder.is_dir():
            yield _file_events(self._outside.folder)

    # --- kubelet

    def _kubelet(self) -> Check:
        path = self._outside.kubelet_socket
        if self._outside.kubelet() is None:
            remedy = "look at the kubelet; in a pod, mount that folder of the host under --host-root"
            return failed("kubelet", f"no socket {path}", remedy)
        if not answers(path):
            return failed("kubelet", f"nobody listens on {path}", "look at the kubelet: systemctl status kubelet")
        return passed("kubelet", "listens on its socket")

    def _served(self, resources: Mapping[ResourceName, Devices]) -> Check:
        unserved = [str(resource) for resource in resources if not self._outside.is_served(resource)]
        if unserved:
            remedy = "start the daemon, `device-plugin run`; if it runs, look at its log and its /readyz"
            return warned("served", f"no plugin answers for {', '.join(unserved)}", remedy)
        return passed("served", f"a plugin answers for {', '.join(map(str, resources))}")

    def _pods(self, resources: Mapping[ResourceName, Devices]) -> Iterator[Check]:
        try:
            given = [one for one in self._pod_resources.list() if one.resource in map(str, resources)]
            offers_get = self._pod_resources.offers_get()
        except KubeletUnreachable as error:
            reason, _, remedy = str(error).partition("; ")
            remedy = remedy or "in a pod, mount /var/lib/kubelet/pod-resources under --host-root; only doctor needs it"
            yield warned("pod-resources", f"not to be seen: {reason}", remedy)
            return
        except PodResourcesError as error:
            yield warned("pod-resources", str(error), "look at the kubelet's log")
            return
        if offers_get:
            yield passed("pod-resources", "answers, and Get is on")
        else:
            remedy = "run Kubernetes 1.34 or later, or switch the feature gate KubeletPodResourcesGet on"
            yield failed("pod-resources", "Get is switched off: Kata finds no device of any pod", remedy)
        yield _given(given, resources)

    # --- CDI

    def _cdi(self, devices: Devices) -> Check:
        match self._settings.cdi:
            case CdiMode.WRITE:
                return self._writes_specs(devices)
            case CdiMode.REQUIRE:
                resolution = Specs(self._node.host, CdiMode.REQUIRE).resolve()
                if resolution.problems:
                    first = resolution.problems[0]
                    return failed("cdi", first.text, first.remedy or "look at kata-manager")
                return passed("cdi", f"{len(resolution.nodes)} names resolve, no spec is broken or in conflict")
            case CdiMode.OFF:
                return passed("cdi", "not looked at (--cdi off)")
            case _:
                assert_never(self._settings.cdi)

    def _writes_specs(self, devices: Devices) -> Check:
        try:
            folder = self._node.host.resolve(DYNAMIC_FOLDER)
            problems = self._outside.plan(devices).waiting
        except NodeError as error:
            return failed("cdi", str(error), "look at that folder")
        for about, reason in problems:
            if about == "CDI":
                return failed("cdi", reason, "mend that, or give the device plugin other aliases")
        place = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not os.access(place, os.W_OK):
            return failed("cdi", f"{place} is not writable here", "mount it writable, or run with --cdi require or off")
        return passed("cdi", f"specs go to {folder}")


# --- devices


def _devices(devices: Devices) -> Check:
    if not devices:
        return passed("devices", "no device to advertise on this node")
    ill = [device for device in devices if not device.is_healthy]
    if not ill:
        return passed("devices", summary(devices))
    found = "; ".join(grouped((device.id, problem.text) for device in ill for problem in device.problems))
    remedies: dict[str, str] = {}  # one for each kind of problem: the others differ in an address
    for device in ill:
        for problem in device.problems:
            remedies.setdefault(problem.code, problem.remedy)
    check = failed if len(ill) == len(devices) else warned
    remedy = "; ".join(dict.fromkeys(filter(None, remedies.values()))) or "wait, and look at the kernel log"
    return check("devices", f"{summary(devices)}: {found}", remedy)


def _left_out(inventory: Inventory) -> Check:
    without = without_group(inventory)
    known = {str(device.address) for device in inventory.devices}
    unread = [fault for fault in inventory.faults if fault.address not in known]
    if without:
        addresses = ", ".join(str(device.address) for device, _ in without)
        return failed("left-out", f"{addresses}: in no IOMMU group", without[0][1].remedy)
    if unread:
        return warned("left-out", str(unread[0]), "look at /sys/bus/pci/devices; it may need a rescan or a reboot")
    return passed("left-out", "nothing: every GPU and NVSwitch is in an IOMMU group")


def _host_dev(inventory: Inventory) -> Check:
    if inventory.dev_vfio is None:
        text = "the host's /dev is not to be seen: a missing node file is unknown"
        return warned("host-dev", text, "mount it read-only under --host-root, if that is to be noticed")
    return passed("host-dev", f"{len(inventory.dev_vfio)} names below /dev/vfio")


# --- folders


def _plugin_folder(folder: Path) -> Check:
    if not folder.is_dir():
        return failed("plugin-folder", f"there is no {folder}", "in a pod, mount it writable under --host-root")
    if not os.access(folder, os.W_OK | os.X_OK):
        return failed("plugin-folder", f"{folder} is not writable here", "run as root, and mount it writable")
    return passed("plugin-folder", "writable")


def _socket_paths(folder: Path, resources: Mapping[ResourceName, Devices]) -> Check:
    try:
        longest = max((len(os.fsencode(endpoint_path(folder, name))) for name in resources), default=0)
    except InvalidValue as error:
        reason, _, remedy = str(error).partition(": ")
        return failed("socket-paths", reason, remedy)
    return passed("socket-paths", f"{longest} of {MAX_PATH_BYTES} bytes at most" if longest else "none needed")


def _given(given: list[PodDevices], resources: Mapping[ResourceName, Devices]) -> Check:
    known = {(str(resource), device.id) for resource, devices in resources.items() for device in devices}
    taken = [(one, wanted) for one in given for wanted in one.device_ids]
    for one, wanted in taken:
        if (one.resource, wanted) not in known:
            text = f"{one.namespace}/{one.pod} has {one.resource}={wanted}, which is not here any more"
            return warned("pods", text, "delete that pod: it cannot start again with this device")
    pods = len({(one.namespace, one.pod) for one in given})
    return passed("pods", f"{len(taken)} of {len(known)} devices are given to {pods} pods")


# --- events


def _file_events(folder: Path) -> Check:
    from nodelib.folders import watched_folders

    remedy = "raise fs.inotify.max_user_instances (sysctl)"
    return _events("file-events", watched_folders(Wakeups(), (folder,)), remedy)


def _events(name: str, source: AbstractContextManager[bool], remedy: str) -> Check:
    with source as are_heard:
        if are_heard:
            return passed(name, "heard")
    return warned(name, "not heard: changes are noticed at the timer's pace", remedy)
