"""The demo on a node whose GPUs can be given away: prepared, handed out, disturbed, recovered."""

import time
from collections.abc import Callable
from pathlib import Path

import grpc

from cc_manager.cluster.labels import DEVICES, MESSAGE, MODE, READY, STATE
from cc_manager.mode import CcMode
from cc_manager.plan import plan_transition
from nodelib.kubelet import podresources_v1_pb2, podresources_v1_pb2_grpc
from nodelib.nvidia import VENDOR_NVIDIA
from nodelib.pci import PciAddress, is_vfio_driver
from nodelib.spec_folder import SpecReader
from tests.demo.agents import RunningAgents
from tests.demo.screen import Screen
from tests.fakes.kubelet.values import PodAllocation
from tests.fakes.node import SimulatedNode

GPU = "nvidia.com/pgpu"
SWITCH = "nvidia.com/nvswitch"
_WAIT_S = 10.0


def prepare_and_use(simulated: SimulatedNode, agents: RunningAgents, screen: Screen) -> None:
    """All steps of the main job, as a node lives them. Raises AssertionError at the first failure."""
    demo = _Demo(simulated, agents, screen)
    demo.bind()
    demo.set_mode()
    demo.write_specs()
    demo.advertise()
    demo.run_pod()
    demo.restart_kubelet()
    demo.unplug()
    demo.stop()
    demo.start_anew()


def wait_until(condition: Callable[[], bool], otherwise: str, timeout_s: float = _WAIT_S) -> None:
    """Wait for *condition*. Raises AssertionError with *otherwise* when it does not come true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(otherwise)
        time.sleep(0.01)


class _Demo:
    def __init__(self, simulated: SimulatedNode, agents: RunningAgents, screen: Screen) -> None:
        self._simulated = simulated
        self._agents = agents
        self._screen = screen
        self._root = simulated.node.host.root

    def bind(self) -> None:
        with self._screen.step("vfio-manager", "bind every GPU and NVSwitch to its VFIO driver") as evidence:
            self._binder = self._agents.start_vfio_manager()
            ready = self._root / "run/nvidia/validations/vfio-pci-ready"
            wait_until(ready.exists, "the ready file did not appear")
            drivers = self._nvidia_drivers()
            wrong = {address: driver for address, driver in drivers.items() if not is_vfio_driver(driver or "")}
            evidence.require(not wrong, f"not on a VFIO driver: {wrong}")
            evidence.text = f"{len(drivers)} driver links read back from /sys, and the ready file"

    def set_mode(self) -> None:
        api = self._simulated.api
        with self._screen.step("cc-manager", "bring every device to the mode of the label: on") as evidence:
            self._agents.start_cc_manager()
            if not self._can_do_cc():
                wait_until(lambda: api.labels.get(STATE) == "failed", "an incapable node was not reported")
                evidence.text = f"the node says why it cannot: {api.annotations.get(MESSAGE, '')[:90]}"
                return
            wait_until(lambda: api.labels.get(READY) == "false", "the mode off was not published")
            api.set_label(MODE, "on")
            wait_until(lambda: api.labels.get(READY) == "true", "the mode on was not published", 20)
            off = [str(address) for address, device in self._simulated.devices.items() if not self._shows_on(address)]
            evidence.require(not off, f"the hardware is not in mode on: {off}")
            complaints = [text for device in self._simulated.devices.values() for text in device.complaints]
            evidence.require(not complaints, f"the firmware complained: {complaints}")
            ready = [value for value in api.history_of_labels(READY) if value is not None]
            evidence.require(ready[-3:] == ["false", "", "true"], f"the ready label went through {ready}")
            evidence.text = (
                f"{len(self._simulated.devices)} devices asked themselves; {STATE}={api.labels[STATE]}; "
                "the ready label was empty meanwhile"
            )

    def write_specs(self) -> None:
        with self._screen.step("kata-manager", "write the CDI specs that Kata resolves") as evidence:
            self._keeper = self._agents.start_kata_manager()
            folder = self._root / "var/run/cdi"
            wait_until(lambda: bool(list(folder.glob("nvidia.com-*.yaml"))), "no spec was written")
            wait_until(lambda: not self._keeper.plan().steps, "the specs are not complete")
            resolution = SpecReader(self._simulated.node.host).resolve()
            evidence.require(not resolution.problems, f"problems: {resolution.problems}")
            missing = [node for nodes in resolution.nodes.values() for node in nodes if not self._host(node).exists()]
            evidence.require(not missing, f"specs name nodes that are not there: {missing}")
            files = ", ".join(path.name for path in sorted(folder.iterdir()))
            evidence.text = f"{len(resolution.nodes)} names read back from {files}; every node exists"

    def advertise(self) -> None:
        kubelet = self._simulated.kubelet
        with self._screen.step("device-plugin", "register and advertise every device") as evidence:
            self._plugin = self._agents.start_device_plugin()
            self._expected = self._groups()
            wait_until(self._all_healthy, "the kubelet does not see all devices healthy")
            evidence.require(not kubelet.complaints, f"the kubelet complained: {kubelet.complaints}")
            counts = ", ".join(f"{name}: {kubelet.allocatable(name)}" for name in kubelet.resource_names)
            evidence.text = f"the kubelet has {counts}, all healthy"

    def run_pod(self) -> None:
        with self._screen.step("pod", "admit a pod, resolve its GPU, start its VM") as evidence:
            pod = self._simulated.kubelet.admit_pod("train", requests={GPU: 1})
            (device_id,) = pod.device_ids(GPU)
            nodes = self._resolve(pod)
            functions = [a for a in self._nvidia_drivers() if self._group_of(a) == device_id]
            with self._simulated.kernel.start_vm(*functions):
                used = [str(function) for function in functions if self._enable(function) == 0]
                evidence.require(not used, f"the VM does not have {used} open")
                kept = not self._can_do_cc() or all(self._shows_on(a) for a in functions if self._emulated(a))
                evidence.require(kept, "VFIO's reset at the VM's start changed the mode")
            self._simulated.kubelet.delete_pod("train")
            evidence.text = f"{GPU}={device_id} resolved to {', '.join(nodes)}; the VM opened it, its mode stayed"

    def restart_kubelet(self) -> None:
        kubelet = self._simulated.kubelet
        with self._screen.step("device-plugin", "the kubelet restarts, deleting every socket") as evidence:
            kubelet.restart(gap_s=0.3)
            begin = time.monotonic()
            wait_until(self._all_healthy, "the devices did not come back")
            evidence.text = f"all devices are back {time.monotonic() - begin:.2f} s after the kubelet"

    def unplug(self) -> None:
        kernel, kubelet = self._simulated.kernel, self._simulated.kubelet
        address = next(d.address for d in self._simulated.node.scan().gpus)
        group = self._group_of(address)
        members = [a for a in self._nvidia_drivers() if self._group_of(a) == group]
        with self._screen.step("all", f"{address} is unplugged, later plugged in") as evidence:
            begin = time.monotonic()
            for member in members:
                kernel.unplug(member)
            wait_until(lambda: not kubelet.devices(GPU)[group].healthy, "the lost GPU is still advertised as healthy")
            noticed_s = time.monotonic() - begin
            wait_until(lambda: f"{GPU}={group}" not in self._names(), "the spec still names the lost GPU")
            others = [d.id for d in kubelet.devices(GPU).values() if not d.healthy and d.id != group]
            evidence.require(not others, f"other devices were harmed: {others}")
            for member in reversed(members):
                kernel.plug_back(member)
            wait_until(self._all_healthy, "the GPU did not come back")
            wait_until(lambda: f"{GPU}={group}" in self._names(), "the spec does not name the GPU again")
            wait_until(self._nothing_left_to_bind, "it was not bound wholly again")
            evidence.text = f"Unhealthy after {noticed_s * 1000:.0f} ms; bound, named and healthy again by itself"

    def stop(self) -> None:
        with self._screen.step("all", "the agents stop, the GPUs stay as they are") as evidence:
            before = self._nvidia_drivers()
            late = self._agents.stop()
            evidence.require(not late, f"these did not end: {late}")
            evidence.require(self._nvidia_drivers() == before, "a device lost its driver")
            sockets = [p.name for p in (self._root / "var/lib/kubelet/device-plugins").iterdir() if p.is_socket()]
            evidence.require(sockets == ["kubelet.sock"], f"sockets left behind: {sockets}")
            ready = list((self._root / "run/nvidia/validations").iterdir())
            evidence.require(not ready, f"ready files left behind: {ready}")
            evidence.text = "no socket and no ready file left, every driver link as before"

    def start_anew(self) -> None:
        with self._screen.step("all", "started again, they find nothing to do") as evidence:
            fresh = RunningAgents(self._simulated)
            binder, keeper, setter = fresh.vfio_manager(), fresh.kata_manager(), fresh.cc_manager()
            evidence.require(not binder.plan(binder.scan())[0].devices, "vfio-manager plans something")
            evidence.require(not keeper.plan().steps, "kata-manager plans something")
            if self._can_do_cc():
                planned = plan_transition(setter.observe({}, knobs=True), CcMode.ON)
                evidence.require(planned.is_done, f"cc-manager plans {planned}")
            evidence.text = "every plan is empty"

    # --- the truth, read without the agents' code

    def _nvidia_drivers(self) -> dict[PciAddress, str | None]:
        """Driver link of every NVIDIA function that is no bridge."""
        found: dict[PciAddress, str | None] = {}
        for folder in sorted((self._root / "sys/bus/pci/devices").iterdir()):
            is_nvidia = int((folder / "vendor").read_text(), 16) == VENDOR_NVIDIA
            if is_nvidia and not (folder / "class").read_text().startswith("0x06040"):
                driver = folder / "driver"
                found[PciAddress.parse(folder.name)] = driver.readlink().name if driver.is_symlink() else None
        return found

    def _group_of(self, address: PciAddress) -> str:
        return (self._root / "sys/bus/pci/devices" / str(address) / "iommu_group").readlink().name

    def _enable(self, address: PciAddress) -> int:
        return int((self._root / "sys/bus/pci/devices" / str(address) / "enable").read_text())

    def _groups(self) -> dict[str, set[str]]:
        """IOMMU groups by the resource that they must be advertised under."""
        inventory = self._simulated.node.scan()
        gpus = {self._group_of(device.address) for device in inventory.gpus}
        switches = {self._group_of(device.address) for device in inventory.nvswitches} - gpus
        return {name: groups for name, groups in ((GPU, gpus), (SWITCH, switches)) if groups}

    def _all_healthy(self) -> bool:
        kubelet = self._simulated.kubelet
        return all(
            {device.id for device in kubelet.devices(name).values() if device.healthy} == groups
            for name, groups in self._expected.items()
        )

    def _nothing_left_to_bind(self) -> bool:
        planned, _ = self._binder.plan(self._binder.scan())
        return not (planned.devices or planned.refusals)  # a device in the middle of a step is refused: it is locked

    def _names(self) -> frozenset[str]:
        return frozenset(SpecReader(self._simulated.node.host).resolve().nodes)

    def _host(self, path: str) -> Path:
        return self._simulated.node.host.resolve(path)

    def _can_do_cc(self) -> bool:
        """Whether every GPU and NVSwitch of the node is of a chip whose mode can be set."""
        inventory = self._simulated.node.scan()
        return {d.address for d in (*inventory.gpus, *inventory.nvswitches)} == set(self._simulated.devices)

    def _emulated(self, address: PciAddress) -> bool:
        return address in self._simulated.devices

    def _shows_on(self, address: PciAddress) -> bool:
        device = self._simulated.devices[address]
        return device.active.cc_bits == (0b01 if device.chip.value.has_cc_bits else 0b00)

    def _resolve(self, pod: PodAllocation) -> tuple[str, ...]:
        """The pod's device nodes as the Kata runtime finds them: PodResources, then CDI by `resource=id`."""
        with grpc.insecure_channel(f"unix:{self._simulated.kubelet.pod_resources_socket}") as channel:
            stub = podresources_v1_pb2_grpc.PodResourcesListerStub(channel)
            answer = stub.Get(
                podresources_v1_pb2.GetPodResourcesRequest(pod_name=pod.name, pod_namespace=pod.namespace), timeout=5
            )
        names = [
            f"{devices.resource_name}={device_id}"
            for container in answer.pod_resources.containers
            for devices in container.devices
            for device_id in devices.device_ids
        ]
        nodes = SpecReader(self._simulated.node.host).resolve().nodes
        found = tuple(node for name in names for node in nodes[name])
        allocated = {spec.host_path for resource in pod.resources for spec in resource.response.devices}
        assert set(found) <= allocated, f"CDI says {found}, Allocate said {allocated}"
        assert DEVICES in self._simulated.api.annotations or not self._can_do_cc(), "no per-device result published"
        return found
