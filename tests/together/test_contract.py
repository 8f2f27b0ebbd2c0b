"""What device-plugin advertises, kata-manager's specs resolve: on every node, by every interface, under every alias."""

from pathlib import Path

import pytest

from device_plugin.reconcile import Plugin
from device_plugin.settings import CdiMode
from device_plugin.settings import Settings as PluginSettings
from kata_manager.reconcile import SpecKeeper
from kata_manager.settings import Settings as KataSettings
from nodelib.spec_folder import SpecReader
from nodelib.vfio import Naming
from tests.fakes.topologies import TOPOLOGIES, build
from vfio_manager.reconcile import Binder
from vfio_manager.settings import Settings as VfioSettings
from vfio_manager.settings import SwitchPolicy

VFIO = VfioSettings(nvswitches=SwitchPolicy.ALWAYS, ready_file="")
NODES = [name for name in TOPOLOGIES if name != "h200-vm"]


@pytest.mark.parametrize("naming", [Naming(), Naming(gpu_alias="", nvswitch_alias="")], ids=["alias", "per-model"])
@pytest.mark.parametrize("cdevs", [False, True], ids=["legacy", "iommufd"])
@pytest.mark.parametrize("topology", NODES)
def test_every_advertised_id_resolves_to_the_nodes_of_its_own_device(
    topology: str, cdevs: bool, naming: Naming, tmp_path: Path
) -> None:
    with build(topology, tmp_path, vfio_cdevs=cdevs) as kernel:
        node = kernel.node()
        assert Binder(node, VFIO).bind().ok
        SpecKeeper(node, KataSettings(naming)).write()
        plugin = Plugin(node, PluginSettings(naming, CdiMode.REQUIRE))
        plugin.round()
        plugin.close()
        resolution = SpecReader(node.host).resolve()
        assert resolution.problems == ()
        advertised = {f"{resource}={d.id}": d for resource, devices in plugin.desired.items() for d in devices}
        assert advertised
        for name, device in advertised.items():
            assert device.is_healthy, device.problems
            nodes = resolution.nodes[name]
            assert nodes == device.spec_nodes
            assert set(nodes) <= set(device.allocate_nodes)
            assert not {"/dev/vfio/vfio", "/dev/iommu"} & set(nodes), "Kata would plug them as devices"
            for path in nodes:
                assert node.host.resolve(path).exists()


@pytest.mark.parametrize("topology", NODES)
def test_the_plugin_writes_the_very_bytes_that_kata_manager_writes(topology: str, tmp_path: Path) -> None:
    written = []
    for place in ("kata", "plugin"):
        with build(topology, tmp_path / place) as kernel:
            node = kernel.node()
            assert Binder(node, VFIO).bind().ok
            if place == "kata":
                SpecKeeper(node, KataSettings()).write()
            else:
                plugin = Plugin(node, PluginSettings(cdi=CdiMode.WRITE))
                plugin.round()
                plugin.close()
            folder = node.host.resolve("/var/run/cdi")
            written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]
    assert written[0]
