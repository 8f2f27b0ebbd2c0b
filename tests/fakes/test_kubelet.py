"""Start, stop and registration of the simulated kubelet, tried with a real plugin."""

import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from nodelib.kubelet import deviceplugin_v1beta1_pb2 as api
from tests.fakes.kubelet import Kubelet
from tests.fakes.kubelet.minimal_plugin import RESOURCE_NAME, MinimalPlugin, device
from tests.fakes.kubelet.values import PluginOptions


@pytest.fixture
def kubelet(tmp_path: Path) -> Iterator[Kubelet]:
    with Kubelet(
        tmp_path / "plugins",
        tmp_path / "pod-resources",
        callback_timeout_s=0.3,
    ) as running:
        yield running


@pytest.fixture
def plugin(kubelet: Kubelet) -> Iterator[MinimalPlugin]:
    with MinimalPlugin(kubelet.plugin_folder, [device("65"), device("66")]) as serving:
        yield serving


def leave_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def status_of(error: pytest.ExceptionInfo[grpc.RpcError]) -> grpc.StatusCode:
    return error.value.code()


# Start and stop: facts/kubelet-cdi-kata-contract.md, "On start the kubelet removes every socket".


def test_a_starting_kubelet_removes_sockets_and_nothing_else(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    leave_socket(plugins / "lost.sock")
    leave_socket(plugins / "kubelet.sock")
    (plugins / "note.sock").write_text("a file, whatever its name")
    (plugins / "folder").mkdir()
    with Kubelet(plugins, tmp_path / "pod-resources") as kubelet:
        assert {path.name for path in plugins.iterdir()} == {"kubelet.sock", "note.sock", "folder"}
        assert kubelet.kubelet_socket.is_socket()


def test_a_restart_removes_the_plugin_socket_and_makes_a_new_kubelet_socket(
    kubelet: Kubelet, plugin: MinimalPlugin
) -> None:
    # Held open, because file systems give the number of a removed inode to the next one.
    old = os.open(kubelet.kubelet_socket, os.O_PATH)
    try:
        kubelet.restart()
        assert kubelet.kubelet_socket.stat().st_ino != os.fstat(old).st_ino
    finally:
        os.close(old)
    assert not (kubelet.plugin_folder / plugin.endpoint).exists()


def test_a_stopped_kubelet_has_no_sockets_and_leaves_those_of_plugins(
    kubelet: Kubelet,
    plugin: MinimalPlugin,
) -> None:
    kubelet.stop()
    assert not kubelet.kubelet_socket.exists()
    assert not kubelet.pod_resources_socket.exists()
    assert (kubelet.plugin_folder / plugin.endpoint).is_socket()


def test_starting_twice_is_refused_and_stopping_twice_is_not(kubelet: Kubelet) -> None:
    with pytest.raises(RuntimeError, match="runs already"):
        kubelet.start()
    kubelet.stop()
    kubelet.stop()


# Registration: same place, "dials that endpoint back (10 s) and calls GetDevicePluginOptions
# before it answers Register". The kubelet's own errors are plain Go errors: UNKNOWN.


def test_a_registration_is_answered_only_after_the_plugin_was_asked_back(
    tmp_path: Path,
) -> None:
    release = threading.Event()
    with (
        Kubelet(tmp_path / "plugins", tmp_path / "pod-resources") as kubelet,
        MinimalPlugin(kubelet.plugin_folder, [device("65")]) as plugin,
        ThreadPoolExecutor(1) as caller,
    ):
        plugin.on_options = lambda: assert_set(release)
        registration = caller.submit(plugin.register)
        plugin.wait_for_event("options")
        assert not registration.done()
        assert plugin.events == ["options"]
        assert kubelet.registrations == []
        release.set()
        registration.result(timeout=10)
        plugin.wait_for_event("stream")
        assert [entry.endpoint for entry in kubelet.registrations] == [plugin.endpoint]


def assert_set(event: threading.Event) -> None:
    assert event.wait(10)


def test_only_the_options_that_the_plugin_answers_count(kubelet: Kubelet) -> None:
    with MinimalPlugin(kubelet.plugin_folder, preference=True) as plugin:
        plugin.register(options=api.DevicePluginOptions(pre_start_required=True))
    (registration,) = kubelet.registrations
    assert registration.resource_name == RESOURCE_NAME
    assert registration.options == PluginOptions(
        pre_start_required=False,
        get_preferred_allocation_available=True,
    )


def test_a_plugin_that_registers_before_it_serves_is_refused(
    kubelet: Kubelet,
    plugin: MinimalPlugin,
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        plugin.register(endpoint="nobody.sock")
    assert status_of(refused) is grpc.StatusCode.UNKNOWN
    (refusal,) = kubelet.refusals
    assert (refusal.endpoint, refusal.code) == ("nobody.sock", grpc.StatusCode.UNKNOWN)
    assert "failed to get device plugin options" in refusal.message
    assert kubelet.registrations == []


def test_a_plugin_that_does_not_answer_the_call_back_is_refused(
    kubelet: Kubelet,
    plugin: MinimalPlugin,
) -> None:
    release = threading.Event()
    plugin.on_options = lambda: assert_set(release)
    with pytest.raises(grpc.RpcError) as refused:
        plugin.register()
    release.set()
    assert status_of(refused) is grpc.StatusCode.UNKNOWN
    assert kubelet.registrations == []


def test_a_plugin_whose_call_back_fails_is_refused(kubelet: Kubelet, plugin: MinimalPlugin) -> None:
    def fail() -> None:
        raise RuntimeError("no options today")

    plugin.on_options = fail
    with pytest.raises(grpc.RpcError, match="no options today") as refused:
        plugin.register()
    assert status_of(refused) is grpc.StatusCode.UNKNOWN
    assert kubelet.registrations == []


@pytest.mark.parametrize(
    ("version", "resource_name", "endpoint", "reason"),
    [
        ("v1alpha1", RESOURCE_NAME, "minimal.sock", "version"),
        ("", RESOURCE_NAME, "minimal.sock", "version"),
        ("v1beta1", "pgpu", "minimal.sock", "invalid"),
        ("v1beta1", "nvidia.com/", "minimal.sock", "invalid"),
        ("v1beta1", "nvidia.com/a/b", "minimal.sock", "invalid"),
        ("v1beta1", "NVIDIA.com/pgpu", "minimal.sock", "invalid"),
        ("v1beta1", "nvidia.com/-pgpu", "minimal.sock", "invalid"),
        ("v1beta1", "nvidia.com/pgpu.", "minimal.sock", "invalid"),
        ("v1beta1", "nvidia.com/p gpu", "minimal.sock", "invalid"),
        ("v1beta1", "nvidia.com/" + "g" * 64, "minimal.sock", "invalid"),
        ("v1beta1", RESOURCE_NAME, "", "base name"),
        ("v1beta1", RESOURCE_NAME, "./minimal.sock", "base name"),
    ],
)
def test_a_faulty_registration_is_refused_without_asking_the_plugin(
    kubelet: Kubelet,
    plugin: MinimalPlugin,
    version: str,
    resource_name: str,
    endpoint: str,
    reason: str,
) -> None:
    with pytest.raises(grpc.RpcError, match=reason) as refused:
        plugin.register(version=version, resource_name=resource_name, endpoint=endpoint)
    assert status_of(refused) is grpc.StatusCode.UNKNOWN
    assert plugin.events == []


def test_the_longest_resource_name_is_accepted(kubelet: Kubelet, plugin: MinimalPlugin) -> None:
    plugin.register(resource_name="nvidia.com/" + "g" * 63)
    assert len(kubelet.registrations) == 1


def test_a_kubelet_of_another_version_refuses_ours(tmp_path: Path) -> None:
    with (
        Kubelet(tmp_path / "plugins", tmp_path / "pods", versions=("v1",)) as kubelet,
        MinimalPlugin(kubelet.plugin_folder) as plugin,
        pytest.raises(grpc.RpcError, match='"v1beta1" is not supported'),
    ):
        plugin.register()


def test_registrations_are_refused_as_often_as_told(
    kubelet: Kubelet,
    plugin: MinimalPlugin,
) -> None:
    kubelet.refuse_registrations(grpc.StatusCode.UNAVAILABLE, "not now", count=2)
    for _ in range(2):
        with pytest.raises(grpc.RpcError, match="not now") as refused:
            plugin.register()
        assert status_of(refused) is grpc.StatusCode.UNAVAILABLE
    plugin.register()
    assert (len(kubelet.refusals), len(kubelet.registrations)) == (2, 1)


def test_registrations_are_refused_until_accepted_again(
    kubelet: Kubelet,
    plugin: MinimalPlugin,
) -> None:
    kubelet.refuse_registrations(grpc.StatusCode.RESOURCE_EXHAUSTED)
    for _ in range(3):
        with pytest.raises(grpc.RpcError):
            plugin.register()
    kubelet.accept_registrations()
    plugin.register()
    assert len(kubelet.registrations) == 1


def test_a_kubelet_that_stops_during_the_call_back_answers_the_plugin(
    tmp_path: Path,
) -> None:
    release = threading.Event()
    with (
        Kubelet(tmp_path / "plugins", tmp_path / "pod-resources") as kubelet,
        MinimalPlugin(kubelet.plugin_folder) as plugin,
        ThreadPoolExecutor(1) as caller,
    ):
        plugin.on_options = lambda: assert_set(release)
        registration = caller.submit(plugin.register)
        plugin.wait_for_event("options")
        kubelet.stop()
        with pytest.raises(grpc.RpcError):
            registration.result(timeout=10)
        release.set()
        assert kubelet.registrations == []
