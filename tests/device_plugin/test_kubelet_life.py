"""The kubelet's life and ours on real sockets: start, restart, refusal, two of us, stop."""

import random
import socket
import threading
from pathlib import Path

import grpc
import pytest

from device_plugin.plan import Registration, plan
from device_plugin.settings import CdiMode, Settings
from nodelib.kubelet import deviceplugin_v1beta1_pb2 as api
from nodelib.kubelet.deviceplugin_v1beta1_pb2_grpc import DevicePluginStub
from nodelib.metrics import Metric
from tests.device_plugin.small_node import (
    NVSWITCH,
    PGPU,
    QUIET,
    RunningPlugin,
    SmallNode,
    WatchedPlugin,
    wait_until,
)
from tests.fakes.kubelet import Kubelet


def metric(plugin: WatchedPlugin, name: str) -> Metric:
    found = next(metric for metric in plugin.metrics() if metric.name == f"device_plugin_{name}")
    assert isinstance(found, Metric)
    return found


def sockets(small: SmallNode) -> set[str]:
    return {path.name for path in small.plugins.iterdir() if path.is_socket()}


@pytest.fixture
def pair(small: SmallNode) -> SmallNode:
    small.add("0000:3b:00.0", 65)
    small.add("0000:5e:00.0", 66)
    return small


def test_gpus_and_switches_are_registered_and_a_second_plan_is_empty(pair: SmallNode, kubelet: Kubelet) -> None:
    pair.add("0000:83:00.0", 70, device="0x22a3", pci_class="0x068000")
    with RunningPlugin(pair.node) as running:
        running.wait_ready()
        kubelet.wait_until(lambda: (kubelet.allocatable(PGPU), kubelet.allocatable(NVSWITCH)) == (2, 1))
        assert {entry.endpoint for entry in kubelet.registrations} == {
            "nvidia.com_pgpu.sock",
            "nvidia.com_nvswitch.sock",
        }
        assert all(entry.options.get_preferred_allocation_available for entry in kubelet.registrations)
        assert running.last.message == (
            "advertising nvidia.com/nvswitch (1 device, 1 healthy), nvidia.com/pgpu (2 devices, 2 healthy)"
        )
        plugin = running.plugin
        observed = plugin._servers.observe()
        assert [server.registration for server in observed] == [Registration.STREAMING] * 2
        assert plan(plugin.desired, observed, plugin._kubelet) == ()


def test_the_resource_comes_back_after_each_restart_of_the_kubelet(pair: SmallNode, kubelet: Kubelet) -> None:
    gaps = random.Random(1)
    with RunningPlugin(pair.node) as running:
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2)
        for _ in range(15):
            kubelet.restart(gap_s=gaps.choice((0.0, 0.0, gaps.uniform(0, 0.05))))
            kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2)
        running.wait_ready()
        assert metric(running.plugin, "kubelet_restarts").values[()] == 15


def test_restarts_leave_no_thread_and_no_descriptor_behind(pair: SmallNode, kubelet: Kubelet) -> None:
    def count() -> tuple[int, int]:
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    with RunningPlugin(pair.node):
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2)
        kubelet.restart()
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2)
        before = count()
        for _ in range(10):
            kubelet.restart()
            kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2)
        wait_until(lambda: all(now <= was for now, was in zip(count(), before, strict=True)), lambda: str(count()))


def test_a_kubelet_that_comes_late_finds_everything_ready(pair: SmallNode) -> None:
    with (
        RunningPlugin(pair.node) as running,
        Kubelet(pair.plugins, pair.root / "pods") as kubelet,
    ):
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2)
        running.wait_ready()


def test_a_kubelet_that_is_away_is_waited_for_and_named(pair: SmallNode) -> None:
    with RunningPlugin(pair.node) as running:
        running.wait_until(lambda: sockets(pair) == {"nvidia.com_pgpu.sock"})
        running.wait_until(lambda: "waiting for the kubelet: there is no socket " in running.last.message)
        assert str(pair.plugins / "kubelet.sock") in running.last.message
        assert not running.last.ready


def test_a_plugin_folder_that_comes_late_is_served_in_and_watched(pair: SmallNode) -> None:
    pair.plugins.rmdir()
    with RunningPlugin(pair.node) as running:
        running.wait_until(lambda: "there is no folder" in running.last.message)
        with Kubelet(pair.plugins, pair.root / "pods") as kubelet:
            kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2)
            kubelet.restart()
            kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2)


def test_a_refused_registration_is_tried_until_it_is_accepted(pair: SmallNode, kubelet: Kubelet) -> None:
    kubelet.refuse_registrations(grpc.StatusCode.UNKNOWN, "not today", count=4)
    with RunningPlugin(pair.node) as running:
        running.wait_until(lambda: "the kubelet refused: not today" in running.last.message)
        assert not running.last.ready
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2)
        running.wait_ready()
        assert len(kubelet.refusals) == 4
        assert dict(metric(running.plugin, "registrations").values) == {(PGPU, "failed"): 4, (PGPU, "accepted"): 1}


def test_a_kubelet_of_another_version_is_named_as_the_reason(pair: SmallNode) -> None:
    with Kubelet(pair.plugins, pair.root / "pods", versions=("v1",)), RunningPlugin(pair.node) as running:
        running.wait_until(lambda: '"v1beta1" is not supported' in running.last.message)
        assert not running.last.ready


def test_a_dead_kubelet_socket_is_tried_again_and_replaced_by_the_new_one(pair: SmallNode) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(pair.plugins / "kubelet.sock"))
    with RunningPlugin(pair.node) as running:
        running.wait_until(lambda: "the kubelet does not answer on its socket" in running.last.message)
        with Kubelet(pair.plugins, pair.root / "pods") as kubelet:
            kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2)


def test_a_kubelet_that_does_not_answer_holds_up_neither_health_nor_the_end(pair: SmallNode) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(pair.plugins / "kubelet.sock"))
        silent.listen()
        with RunningPlugin(pair.node) as running:
            running.wait_until(lambda: "is under way" in running.last.message)
            pair.unbind("0000:3b:00.0")
            pair.event()
            running.wait_until(lambda: not all(d.is_healthy for ds in running.plugin.desired.values() for d in ds))
    assert sockets(pair) == {"kubelet.sock"}


def test_one_resource_that_cannot_be_served_does_not_stop_the_other(pair: SmallNode, kubelet: Kubelet) -> None:
    pair.add("0000:83:00.0", 70, device="0x22a3", pci_class="0x068000")
    (pair.plugins / "nvidia.com_nvswitch.sock").write_text("in the way")
    with RunningPlugin(pair.node) as running:
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2)
        running.wait_until(lambda: "nvidia.com/nvswitch: " in running.last.message)
        assert "is in the way and no socket: remove it" in running.last.message
        assert not running.last.ready
        (pair.plugins / "nvidia.com_nvswitch.sock").unlink()
        running.wait_ready()


def test_a_deleted_socket_is_replaced_and_registered(pair: SmallNode, kubelet: Kubelet) -> None:
    with RunningPlugin(pair.node) as running:
        running.wait_ready()
        (pair.plugins / "nvidia.com_pgpu.sock").unlink()
        kubelet.wait_until(lambda: len(kubelet.registrations) >= 2 and kubelet.allocatable(PGPU) == 2)
        running.wait_ready()
        assert "nvidia.com_pgpu.sock" in sockets(pair)


def test_a_kubelet_that_drops_us_is_registered_with_again(pair: SmallNode, kubelet: Kubelet) -> None:
    with RunningPlugin(pair.node) as running:
        running.wait_ready()
        kubelet.disconnect(PGPU)
        kubelet.wait_until(lambda: len(kubelet.registrations) == 2 and kubelet.allocatable(PGPU) == 2)
        running.wait_ready()


def test_a_kubelet_that_never_opens_its_stream_is_asked_again(pair: SmallNode, kubelet: Kubelet) -> None:
    kubelet.withhold_streams(1)
    settings = Settings(cdi=CdiMode.OFF, health_interval_s=0.1, stream_wait_s=0.2)
    with RunningPlugin(pair.node, settings) as running:
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2)
        running.wait_ready()
        assert len(kubelet.registrations) == 2


def test_capacity_does_not_shrink_when_the_plugin_restarts_with_devices_in_use(
    pair: SmallNode, kubelet: Kubelet
) -> None:
    with RunningPlugin(pair.node):
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2)
        pod = kubelet.admit_pod("tenant", requests={PGPU: 1})
        before = kubelet.devices(PGPU)
    pair.write("0000:3b:00.0", "enable", "1")
    with RunningPlugin(pair.node):
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2)
        assert kubelet.devices(PGPU) == before
        assert kubelet.pods == (pod,)


def test_a_second_instance_leaves_the_first_alone_and_takes_over_when_it_ends(
    pair: SmallNode, kubelet: Kubelet
) -> None:
    with RunningPlugin(pair.node) as first:
        first.wait_ready()
        path = pair.plugins / "nvidia.com_pgpu.sock"
        inode = path.stat().st_ino
        with RunningPlugin(pair.node) as second:
            second.wait_until(lambda: "another device plugin answers on" in second.last.message)
            assert not second.last.ready
            assert path.stat().st_ino == inode
            assert len(kubelet.registrations) == 1
            first.stop()
            kubelet.wait_until(lambda: len(kubelet.registrations) >= 2 and kubelet.allocatable(PGPU) == 2)
            second.wait_ready()


def test_a_stopped_plugin_leaves_no_socket_of_its_own_and_those_of_others(pair: SmallNode, kubelet: Kubelet) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(pair.plugins / "other.sock"))
    with RunningPlugin(pair.node):
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2)
    assert sockets(pair) == {"kubelet.sock", "other.sock"}
    kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 0)
    assert kubelet.capacity(PGPU) == 2


def test_a_stopping_plugin_does_not_remove_its_successors_socket(pair: SmallNode, kubelet: Kubelet) -> None:
    running = RunningPlugin(pair.node)
    with running:
        running.wait_ready()
        path = pair.plugins / "nvidia.com_pgpu.sock"
        aside = pair.plugins / "aside"
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(aside))
            successor.listen()
            aside.rename(path)
            running.stop()
            assert path.is_socket()


def test_a_person_who_looks_on_costs_the_kubelet_nothing(pair: SmallNode, kubelet: Kubelet) -> None:
    with RunningPlugin(pair.node) as running:
        running.wait_ready()
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"unix:{pair.plugins}/nvidia.com_pgpu.sock", options=options) as channel:
            looks = [iter(DevicePluginStub(channel).ListAndWatch(api.Empty())) for _ in range(3)]
            assert [len(next(look).devices) for look in looks] == [2, 2, 2]
            with pytest.raises(grpc.RpcError) as refused:
                next(iter(DevicePluginStub(channel).ListAndWatch(api.Empty())))
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        rounds = len(running.plugin.results)
        running.wait_until(lambda: len(running.plugin.results) > rounds)
        running.wait_ready()
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 2)
        assert len(kubelet.registrations) == 1


def test_no_timer_is_needed_but_there_is_one(pair: SmallNode, kubelet: Kubelet) -> None:
    assert QUIET.health_interval_s > 30, "or the tests above prove nothing about events"
    with RunningPlugin(pair.node, Settings(cdi=CdiMode.OFF, health_interval_s=0.1)) as running:
        running.wait_ready()
        pair.unbind("0000:3b:00.0")  # and no event
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 1)
