"""Device streams of the simulated kubelet, and what is left of them, tried with a real plugin."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodelib.kubelet import deviceplugin_v1beta1_pb2 as api
from tests.fakes.kubelet import Kubelet
from tests.fakes.kubelet.minimal_plugin import RESOURCE_NAME, MinimalPlugin, device
from tests.fakes.kubelet.values import PluginDevice


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[Kubelet]:
    with Kubelet(tmp_path / "plugins", tmp_path / "pod-resources") as running:
        yield running


@pytest.fixture
def plugin(kubelet: Kubelet) -> Iterator[MinimalPlugin]:
    with MinimalPlugin(kubelet.plugin_folder, [device("65"), device("66")]) as serving:
        yield serving


# facts/kubelet-cdi-kata-contract.md: "ListAndWatch is a stream: the full list first, then the full
# list at each change. The kubelet treats the end of the stream as the plugin's death."


def test_the_device_list_becomes_capacity_and_allocatable(
    kubelet: Kubelet,
    plugin: MinimalPlugin,
) -> None:
    plugin.advertise(device("65", numa_node=0), device("66", "Unhealthy", numa_node=1))
    plugin.register()
    kubelet.wait_until(lambda: kubelet.capacity(RESOURCE_NAME) == 2)
    assert kubelet.allocatable(RESOURCE_NAME) == 1
    assert kubelet.devices(RESOURCE_NAME) == {
        "65": PluginDevice("65", healthy=True, numa_nodes=(0,)),
        "66": PluginDevice("66", healthy=False, numa_nodes=(1,)),
    }
    assert kubelet.resource_names == (RESOURCE_NAME,)
    plugin.advertise(device("67"))
    kubelet.wait_until(lambda: list(kubelet.devices(RESOURCE_NAME)) == ["67"])
    assert kubelet.complaints == []


def test_the_end_of_the_stream_is_the_end_of_the_plugin(
    kubelet: Kubelet,
    plugin: MinimalPlugin,
) -> None:
    plugin.register()
    kubelet.wait_until(lambda: kubelet.allocatable(RESOURCE_NAME) == 2)
    plugin.end_streams()
    kubelet.wait_until(lambda: kubelet.allocatable(RESOURCE_NAME) == 0)
    assert kubelet.capacity(RESOURCE_NAME) == 2
    plugin.register()
    kubelet.wait_until(lambda: kubelet.allocatable(RESOURCE_NAME) == 2)


def test_a_plugin_that_dies_keeps_its_capacity_for_five_minutes(kubelet: Kubelet) -> None:
    with MinimalPlugin(kubelet.plugin_folder, [device("65")]) as plugin:
        plugin.register()
        kubelet.wait_until(lambda: kubelet.allocatable(RESOURCE_NAME) == 1)
    kubelet.wait_until(lambda: kubelet.allocatable(RESOURCE_NAME) == 0)
    assert kubelet.capacity(RESOURCE_NAME) == 1
    kubelet.remove_lost_resources()
    assert kubelet.resource_names == ()


def test_five_minutes_change_nothing_for_a_living_plugin(
    kubelet: Kubelet,
    plugin: MinimalPlugin,
) -> None:
    plugin.register()
    kubelet.wait_until(lambda: kubelet.allocatable(RESOURCE_NAME) == 2)
    kubelet.remove_lost_resources()
    assert kubelet.allocatable(RESOURCE_NAME) == 2


def test_an_old_stream_that_ends_after_a_new_registration_takes_that_one_with_it(
    kubelet: Kubelet, plugin: MinimalPlugin
) -> None:
    plugin.register()
    plugin.wait_for_event("stream")
    with MinimalPlugin(
        kubelet.plugin_folder, [device("65"), device("66"), device("67")], endpoint="young.sock"
    ) as young:
        young.register()
        kubelet.wait_until(lambda: kubelet.allocatable(RESOURCE_NAME) == 3)
        plugin.end_streams()
        young.wait_for_event("stream ended")
        kubelet.wait_until(lambda: kubelet.allocatable(RESOURCE_NAME) == 0)
        young.register()
        kubelet.wait_until(lambda: kubelet.allocatable(RESOURCE_NAME) == 3)


def test_a_registration_may_be_answered_and_its_stream_never_opened(
    kubelet: Kubelet,
    plugin: MinimalPlugin,
) -> None:
    kubelet.withhold_streams(1)
    plugin.register()
    with pytest.raises(TimeoutError):
        kubelet.wait_until(lambda: kubelet.capacity(RESOURCE_NAME) > 0, timeout_s=0.2)
    assert plugin.events == ["options", "registered"]
    plugin.register()
    kubelet.wait_until(lambda: kubelet.allocatable(RESOURCE_NAME) == 2)


def test_the_kubelet_may_drop_a_plugin(kubelet: Kubelet, plugin: MinimalPlugin) -> None:
    plugin.register()
    kubelet.wait_until(lambda: kubelet.allocatable(RESOURCE_NAME) == 2)
    kubelet.disconnect(RESOURCE_NAME)
    plugin.wait_for_event("stream ended")
    kubelet.wait_until(lambda: kubelet.allocatable(RESOURCE_NAME) == 0)


def test_after_a_restart_there_is_nothing_until_the_plugin_registers_again(
    kubelet: Kubelet, plugin: MinimalPlugin
) -> None:
    plugin.register()
    kubelet.wait_until(lambda: kubelet.allocatable(RESOURCE_NAME) == 2)
    kubelet.restart()
    plugin.wait_for_event("stream ended")
    assert kubelet.resource_names == (RESOURCE_NAME,)
    assert (kubelet.capacity(RESOURCE_NAME), kubelet.allocatable(RESOURCE_NAME)) == (0, 0)
    plugin.close()
    with MinimalPlugin(kubelet.plugin_folder, [device("65"), device("66")]) as again:
        again.register()
        kubelet.wait_until(lambda: kubelet.allocatable(RESOURCE_NAME) == 2)
    assert len(kubelet.registrations) == 2


@pytest.mark.parametrize(
    ("devices", "complaint"),
    [
        ([device("6" * 64)], "not 1 to 63 characters"),
        ([device("")], "not 1 to 63 characters"),
        ([device("65"), device("65")], "in one list 2 times"),
        ([device("65", "healthy")], "unknown health 'healthy'"),
    ],
)
def test_a_faulty_device_list_is_complained_about(
    kubelet: Kubelet, plugin: MinimalPlugin, devices: list[api.Device], complaint: str
) -> None:
    plugin.advertise(*devices)
    plugin.register()
    kubelet.wait_until(lambda: kubelet.capacity(RESOURCE_NAME) == 1)
    (said,) = kubelet.complaints
    assert complaint in said


def test_waiting_in_vain_says_what_the_kubelet_has(kubelet: Kubelet, plugin: MinimalPlugin) -> None:
    plugin.register()
    kubelet.wait_until(lambda: kubelet.capacity(RESOURCE_NAME) == 2)
    with pytest.raises(TimeoutError, match=r"nvidia.com/pgpu 2/2, 1 registrations"):
        kubelet.wait_until(lambda: False, timeout_s=0.01)


def test_a_hundred_restarts_leave_no_thread_and_no_descriptor(tmp_path: Path) -> None:
    def restart_with_a_plugin(kubelet: Kubelet) -> None:
        with MinimalPlugin(kubelet.plugin_folder, [device("65")]) as plugin:
            plugin.register()
            kubelet.wait_until(lambda: kubelet.allocatable(RESOURCE_NAME) == 1)
            kubelet.restart()

    with Kubelet(tmp_path / "plugins", tmp_path / "pod-resources") as kubelet:
        restart_with_a_plugin(kubelet)  # grpc's own threads and descriptors stay with the process
    threads = set(threading.enumerate())
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    with Kubelet(tmp_path / "plugins", tmp_path / "pod-resources") as kubelet:
        for _ in range(100):
            restart_with_a_plugin(kubelet)
    for thread in set(threading.enumerate()) - threads:
        thread.join(10)
    assert set(threading.enumerate()) <= threads
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors
