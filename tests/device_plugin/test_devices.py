"""What users see of their devices: capacity, health both ways, names and nodes. Numbers: facts, field problems."""

import os

import pytest

from device_plugin.event_reasons import HEALTHY, UNHEALTHY
from device_plugin.settings import CdiMode, Settings
from nodelib.event_reasons import EventReason
from nodelib.metrics import Metric
from nodelib.spec_folder import SpecReader
from nodelib.vfio import Naming
from tests.device_plugin.small_node import (
    ANSWERING,
    GONE,
    NVSWITCH,
    PGPU,
    QUIET,
    RunningPlugin,
    SmallNode,
)
from tests.fakes.kubelet import Kubelet

FIRST, SECOND, SWITCH = "0000:3b:00.0", "0000:5e:00.0", "0000:83:00.0"


def health(kubelet: Kubelet, resource: str = PGPU) -> dict[str, bool]:
    return {device.id: device.healthy for device in kubelet.devices(resource).values()}


@pytest.fixture
def pair(small: SmallNode) -> SmallNode:
    small.add(FIRST, 65)
    small.add(SECOND, 66)
    return small


def test_a_gpu_that_left_the_bus_becomes_unhealthy_and_healthy_when_it_is_back(
    pair: SmallNode, kubelet: Kubelet
) -> None:
    """Row 2."""
    with RunningPlugin(pair.node):
        kubelet.wait_until(lambda: health(kubelet) == {"65": True, "66": True})
        pair.unplug(FIRST)
        pair.event()
        kubelet.wait_until(lambda: health(kubelet) == {"65": False, "66": True})
        pair.add(FIRST, 65)
        pair.event()
        kubelet.wait_until(lambda: health(kubelet) == {"65": True, "66": True})


def test_a_gpu_whose_configuration_space_reads_as_ones_is_unhealthy_until_it_answers(
    pair: SmallNode, kubelet: Kubelet
) -> None:
    """Row 2: it fell off the bus, and the kernel has not noticed."""
    with RunningPlugin(pair.node):
        kubelet.wait_until(lambda: health(kubelet) == {"65": True, "66": True})
        (pair.folder(SECOND) / "config").write_bytes(GONE)
        pair.event()
        kubelet.wait_until(lambda: health(kubelet) == {"65": True, "66": False})
        (pair.folder(SECOND) / "config").write_bytes(ANSWERING)
        pair.event()
        kubelet.wait_until(lambda: health(kubelet) == {"65": True, "66": True})


def test_a_gpu_that_is_bound_late_is_advertised_then(small: SmallNode, kubelet: Kubelet) -> None:
    """Row 3: at start there was nothing."""
    with RunningPlugin(small.node) as running:
        running.wait_ready()
        assert running.last.message == "no device to advertise"
        assert kubelet.registrations == []
        small.add(FIRST, 65, driver=None)
        small.event()
        kubelet.wait_until(lambda: health(kubelet) == {"65": False})
        small.bind(FIRST, "vfio-pci")
        small.event()
        kubelet.wait_until(lambda: health(kubelet) == {"65": True})
        running.wait_ready()


def test_a_resource_whose_last_device_took_another_name_is_empty_at_once(pair: SmallNode, kubelet: Kubelet) -> None:
    """Row 3: resources go at run time. Nothing of the old one is left to be scheduled on."""
    per_model = Settings(cdi=CdiMode.OFF, health_interval_s=60.0, naming=Naming(gpu_alias=""))
    h200, b200 = "nvidia.com/GH100_H200_SXM_141GB", "nvidia.com/GB100_B200"
    with RunningPlugin(pair.node, per_model):
        kubelet.wait_until(lambda: kubelet.allocatable(h200) == 2)
        for address in (FIRST, SECOND):
            pair.write(address, "device", "0x2901")
        pair.event()
        kubelet.wait_until(lambda: kubelet.allocatable(b200) == 2 and kubelet.capacity(h200) == 0)
        kubelet.wait_until(lambda: len(kubelet.registrations) == 2)
        assert not (pair.plugins / "nvidia.com_GH100_H200_SXM_141GB.sock").exists()


def test_capacity_counts_gpus_in_use(pair: SmallNode, kubelet: Kubelet) -> None:
    """Row 4."""
    pair.write(FIRST, "enable", "1")
    with RunningPlugin(pair.node):
        kubelet.wait_until(lambda: health(kubelet) == {"65": True, "66": True})


def test_a_gpu_taken_by_a_virtual_machine_is_no_news_for_the_kubelet(pair: SmallNode, kubelet: Kubelet) -> None:
    with RunningPlugin(pair.node) as running:
        kubelet.wait_until(lambda: health(kubelet) == {"65": True, "66": True})
        pair.write(FIRST, "enable", "1")
        pair.event()
        running.wait_until(lambda: any(d.in_use for ds in running.plugin.desired.values() for d in ds))
        running.wait_ready()
    assert len(kubelet.registrations) == 1


def test_gpus_that_share_a_group_are_one_device(small: SmallNode, kubelet: Kubelet) -> None:
    """Row 7."""
    small.add(FIRST, 65)
    small.add(SECOND, 65)
    with RunningPlugin(small.node) as running:
        kubelet.wait_until(lambda: health(kubelet) == {"65": True})
        (device,) = running.plugin.desired[next(iter(running.plugin.desired))]
        assert [str(address) for address in device.addresses] == [FIRST, SECOND]


def test_a_gpus_audio_function_is_not_a_second_gpu(small: SmallNode, kubelet: Kubelet) -> None:
    """Row 8."""
    small.add(FIRST, 65)
    small.add("0000:3b:00.1", 65, device="0x22be", pci_class="0x040300")
    with RunningPlugin(small.node):
        kubelet.wait_until(lambda: health(kubelet) == {"65": True})


def test_an_audio_function_on_a_host_driver_holds_its_gpu_back_and_is_named(small: SmallNode, kubelet: Kubelet) -> None:
    """Row 6, before anybody's virtual machine finds out."""
    small.add(FIRST, 65)
    small.add("0000:3b:00.1", 65, device="0x22be", pci_class="0x040300", driver="snd_hda_intel")
    with RunningPlugin(small.node) as running:
        kubelet.wait_until(lambda: health(kubelet) == {"65": False})
        (device,) = running.plugin.desired[next(iter(running.plugin.desired))]
        assert "0000:3b:00.1" in device.problems[0].text
        assert "snd_hda_intel" in device.problems[0].text


def test_the_group_number_is_the_id_with_and_without_a_cdev(small: SmallNode, kubelet: Kubelet) -> None:
    """Rows 10 and 11: the id is the same whatever the backend, decided for each device."""
    small.add(FIRST, 65, cdev="vfio0")
    small.add(SECOND, 66)
    with RunningPlugin(small.node):
        kubelet.wait_until(lambda: health(kubelet) == {"65": True, "66": True})
        pod = kubelet.admit_pod("both", requests={PGPU: 2})
    assert [spec.host_path for spec in pod.device_specs] == [
        "/dev/vfio/devices/vfio0",
        "/dev/vfio/vfio",
        "/dev/vfio/66",
    ]


def test_two_models_are_one_resource_on_one_socket(small: SmallNode, kubelet: Kubelet) -> None:
    """Row 12."""
    small.add(FIRST, 65)
    small.add(SECOND, 66, device="0x2901")
    with RunningPlugin(small.node):
        kubelet.wait_until(lambda: health(kubelet) == {"65": True, "66": True})
        assert [entry.endpoint for entry in kubelet.registrations] == ["nvidia.com_pgpu.sock"]


def test_one_unreadable_device_does_not_hide_the_others(pair: SmallNode, kubelet: Kubelet) -> None:
    """Row 21."""
    pair.write(FIRST, "class", "garbage")
    small_switch = {"device": "0x22a3", "pci_class": "0x068000"}
    pair.add(SWITCH, 70, **small_switch)  # type: ignore[arg-type] # a splat of texts
    (pair.folder(SWITCH) / "numa_node").write_bytes(b"\xff\xfe\n")
    with RunningPlugin(pair.node):
        kubelet.wait_until(lambda: health(kubelet) == {"66": True})
        kubelet.wait_until(lambda: health(kubelet, NVSWITCH) == {"70": True})


def test_a_gpu_that_becomes_unreadable_is_unhealthy_not_forgotten(pair: SmallNode, kubelet: Kubelet) -> None:
    """Rows 2 and 21."""
    with RunningPlugin(pair.node):
        kubelet.wait_until(lambda: health(kubelet) == {"65": True, "66": True})
        pair.write(FIRST, "vendor", "")
        pair.event()
        kubelet.wait_until(lambda: health(kubelet) == {"65": False, "66": True})


def test_without_aliases_resources_are_named_for_their_models(small: SmallNode, kubelet: Kubelet) -> None:
    """Row 35: names from the vendor's own section, an unknown id by its number."""
    small.add(FIRST, 65)
    small.add(SECOND, 66, device="0x2fff")
    naming = Naming(gpu_alias="", nvswitch_alias="")
    with RunningPlugin(small.node, Settings(cdi=CdiMode.OFF, health_interval_s=60.0, naming=naming)):
        named = ("nvidia.com/GH100_H200_SXM_141GB", "nvidia.com/GPU_2FFF")
        kubelet.wait_until(lambda: kubelet.resource_names == named)


def test_numa_node_minus_one_is_no_hint(small: SmallNode, kubelet: Kubelet) -> None:
    """Row 36."""
    small.add(FIRST, 65, numa_node=-1)
    small.add(SECOND, 66, numa_node=0)
    with RunningPlugin(small.node):
        kubelet.wait_until(lambda: health(kubelet) == {"65": True, "66": True})
        assert kubelet.devices(PGPU)["65"].numa_nodes == ()
        assert kubelet.devices(PGPU)["66"].numa_nodes == (0,)


def test_a_failed_gpu_is_in_the_log_and_in_the_metrics_with_its_reason(
    pair: SmallNode, kubelet: Kubelet, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 38."""
    with RunningPlugin(pair.node) as running:
        kubelet.wait_until(lambda: health(kubelet) == {"65": True, "66": True})
        (pair.folder(FIRST) / "config").write_bytes(GONE)
        pair.event()
        kubelet.wait_until(lambda: health(kubelet) == {"65": False, "66": True})
        metrics = running.plugin.metrics()
        devices = next(m for m in metrics if isinstance(m, Metric) and m.name == "device_plugin_devices")
        assert dict(devices.values) == {(PGPU, "healthy"): 1.0, (PGPU, "unhealthy"): 1.0}
        first, _ = running.plugin.desired[next(iter(running.plugin.desired))]
    said = [record.getMessage() for record in caplog.records if "is unhealthy" in record.getMessage()]
    assert said == [f"nvidia.com/pgpu=65 ({FIRST}) is unhealthy: {first.problems[0]}"]


def test_field_38_a_failed_gpu_is_an_event_with_its_reason_and_so_is_its_return(
    pair: SmallNode, kubelet: Kubelet
) -> None:
    told: list[tuple[EventReason, str]] = []
    with RunningPlugin(pair.node, tell=lambda *event: told.append(event)):
        kubelet.wait_until(lambda: health(kubelet) == {"65": True, "66": True})
        assert told == []
        (pair.folder(FIRST) / "config").write_bytes(GONE)
        pair.event()
        kubelet.wait_until(lambda: health(kubelet) == {"65": False, "66": True})
        ((reason, text),) = told
        assert reason is UNHEALTHY
        assert text.startswith(f"nvidia.com/pgpu=65 ({FIRST}): unhealthy: {FIRST} does not answer any more")
        (pair.folder(FIRST) / "config").write_bytes(ANSWERING)
        pair.event()
        kubelet.wait_until(lambda: health(kubelet) == {"65": True, "66": True})
        assert told[1:] == [(HEALTHY, f"nvidia.com/pgpu=65 ({FIRST}): healthy again")]


def test_a_gpu_without_an_iommu_is_left_out_with_the_remedy(small: SmallNode, kubelet: Kubelet) -> None:
    small.add(FIRST, None, driver="nvidia")
    with RunningPlugin(small.node) as running:
        running.wait_ready()
        assert running.last.message.startswith(f"no device to advertise; {FIRST}: ")
        assert "intel_iommu=on" in running.last.message
    assert kubelet.registrations == []


def test_a_node_file_that_the_host_lacks_makes_a_device_unhealthy_and_its_coming_is_noticed(
    small: SmallNode, kubelet: Kubelet
) -> None:
    """The host's /dev is visible here, and it is a file event, not a uevent, that tells."""
    (small.root / "dev/vfio").mkdir(parents=True)
    small.add(FIRST, 65)
    with RunningPlugin(small.node) as running:
        kubelet.wait_until(lambda: health(kubelet) == {"65": False})
        assert running.plugin.desired
        (small.root / "dev/vfio/65").touch()
        kubelet.wait_until(lambda: health(kubelet) == {"65": True})


def test_field_44_a_gpu_that_resets_for_minutes_holds_up_nobody_elses_health(pair: SmallNode, kubelet: Kubelet) -> None:
    """To open a FIFO waits for a writer, as a read of `config` waits for the end of the reset."""
    with RunningPlugin(pair.node) as running:
        kubelet.wait_until(lambda: health(kubelet) == {"65": True, "66": True})
        (pair.folder(FIRST) / "config").unlink()
        os.mkfifo(pair.folder(FIRST) / "config")
        pair.event()
        kubelet.wait_until(lambda: health(kubelet) == {"65": False, "66": True})
        for is_well in (False, True, False, True):
            (pair.folder(SECOND) / "config").write_bytes(ANSWERING if is_well else GONE)
            pair.event()
            kubelet.wait_until(lambda now=is_well: health(kubelet) == {"65": False, "66": now})  # type: ignore[misc]
        assert kubelet.admit_pod("tenant", requests={PGPU: 1}).device_ids(PGPU) == ("66",)
        (pair.folder(FIRST) / "config").unlink()
    assert running.last.ready, "a device that is ill is no fault of the plugin"


def test_field_43_no_further_name_is_ever_another_devices_while_one_is_gone(small: SmallNode, kubelet: Kubelet) -> None:
    """Groups 0 and 1 exist, so no index may be a name; a device that is gone keeps its place among the indices."""
    settings = Settings(cdi=CdiMode.WRITE, health_interval_s=60.0)
    addresses = {"0": "0000:3b:00.0", "1": "0000:5e:00.0", "70": "0000:83:00.0"}
    for group, address in addresses.items():
        small.add(address, int(group))

    def names(of: str) -> set[str]:
        nodes = SpecReader(small.node.host).resolve().nodes
        return {name.partition("=")[2] for name, paths in nodes.items() if paths == (f"/dev/vfio/{of}",)}

    with RunningPlugin(small.node, settings):
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 3)
        assert {group: names(group) for group in addresses} == {
            "0": {"0", addresses["0"]},
            "1": {"1", addresses["1"]},
            "70": {"70", addresses["70"], "2"},
        }
        small.unplug(addresses["0"])
        small.event()
        kubelet.wait_until(lambda: health(kubelet) == {"0": False, "1": True, "70": True})
        assert {group: names(group) for group in ("1", "70")} == {
            "1": {"1", addresses["1"]},
            "70": {"70", addresses["70"], "2"},
        }


def test_the_settings_of_these_tests_leave_events_alone_to_do_it() -> None:
    assert QUIET.health_interval_s > 30
