"""The demo on a node whose GPU cannot be given away: each agent says so, says why, and says what to do."""

from cc_manager.cluster.labels import MESSAGE, READY, STATE
from nodelib.nvidia import VENDOR_NVIDIA
from tests.demo.agents import RunningAgents
from tests.demo.assignable import wait_until
from tests.demo.screen import Screen
from tests.fakes.node import SimulatedNode


def tell_the_truth(simulated: SimulatedNode, agents: RunningAgents, screen: Screen) -> None:
    """Every agent's verdict, and that none of them touched the device. Raises AssertionError at the first failure."""
    root = simulated.node.host.root
    inventory = simulated.node.scan()
    before = {device.address: device.driver for device in inventory.devices if device.vendor == VENDOR_NVIDIA}
    addresses = [str(address) for address in before]

    with screen.step("vfio-manager", "bind every GPU to its VFIO driver") as evidence:
        binder = agents.start_vfio_manager()
        plan, _ = binder.plan(binder.scan())
        evidence.require(not plan.steps, "it would touch a device that no VM can be given")
        told = [str(refusal) for refusal in plan.refusals]
        evidence.require(all(any(a in text and "IOMMU" in text for text in told) for a in addresses), f"told: {told}")
        evidence.require(not (root / "run/nvidia/validations/vfio-pci-ready").exists(), "the ready file lies")
        evidence.text = f"refused, not ready: {told[0]}"

    with screen.step("cc-manager", "bring the GPU to the mode of the label") as evidence:
        agents.start_cc_manager()
        wait_until(lambda: simulated.api.labels.get(STATE) == "failed", "the node's label does not say failed")
        message = simulated.api.annotations.get(MESSAGE, "")
        evidence.require("IOMMU on" in message, f"no remedy in {message!r}")
        evidence.require(simulated.api.labels.get(READY) == "", "the ready label is not empty")
        evidence.text = f"{STATE}=failed: {message}"

    with screen.step("kata-manager", "write the CDI specs") as evidence:
        keeper = agents.start_kata_manager()
        evidence.require(not keeper.specs(), "a spec names a device that cannot be given away")
        left_out = keeper.left_out()
        evidence.require(len(left_out) == len(before), f"left out: {left_out}")
        evidence.require(not list((root / "var/run/cdi").glob("nvidia*")), "a spec was written")
        evidence.text = f"no spec: {left_out[0]}"

    with screen.step("device-plugin", "advertise what can be given away") as evidence:
        plugin = agents.start_device_plugin()
        result = plugin.round()
        evidence.require(result.ready and not plugin.desired, "it advertises something")
        evidence.require(not simulated.kubelet.resource_names, "the kubelet was told of a resource")
        evidence.text = f"ready with zero devices: {result.message}"

    with screen.step("all", "nothing was touched") as evidence:
        late = agents.stop()
        after = {d.address: d.driver for d in simulated.node.scan().devices if d.vendor == VENDOR_NVIDIA}
        evidence.require(not late, f"these did not end: {late}")
        evidence.require(after == before, f"{after} instead of {before}")
        evidence.require(not simulated.kernel.writes, f"writes to /sys: {simulated.kernel.writes}")
        evidence.text = f"no write to /sys; {', '.join(f'{a} on {d}' for a, d in before.items())}"
