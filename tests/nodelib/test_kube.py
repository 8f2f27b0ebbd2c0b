"""The one door to the Kubernetes API, against the simulated API server and a server of scripted bytes.

Field problems 27 and 28.
"""

from pathlib import Path

import pytest

from nodelib.errors import NotSupported
from nodelib.kube import JSON_PATCH, UNREACHABLE, ApiAccess, ApiError, Kube, in_cluster_access
from tests.fakes.kube.api import KubeApi
from tests.nodelib.kube_parts import NODE, NODES, field, unauthenticated
from tests.nodelib.scripted_server import answer, serving


def error_of(kube: Kube, path: str = NODE) -> ApiError:
    try:
        with pytest.raises(ApiError) as caught:
            kube.get(path)
    finally:
        kube.close()
    return caught.value


# --- single calls


def test_an_object_is_read(kube: Kube) -> None:
    assert field(kube.get(NODE), "metadata", "labels", "nvidia.com/cc.mode") == "on"


def test_a_query_is_escaped(kube: Kube, api: KubeApi) -> None:
    query = {"fieldSelector": "metadata.name=node-1", "labelSelector": "nvidia.com/cc.mode=on,other!=a"}
    kube.get(NODES, query)
    assert api.requests[-1].query == query


def test_a_merge_patch_changes_the_keys_that_it_names(kube: Kube, api: KubeApi) -> None:
    patched = kube.patch(NODE, {"metadata": {"labels": {"nvidia.com/cc.mode.state": "on", "nvidia.com/cc.mode": None}}})
    assert field(patched, "metadata", "labels") == api.labels == {"nvidia.com/cc.mode.state": "on"}
    assert api.requests[-1].content_type == "application/merge-patch+json"


def test_a_json_patch_fails_where_its_test_does(kube: Kube, api: KubeApi) -> None:
    """Field problem 28: keys that others write too."""
    path = "/metadata/labels/nvidia.com~1cc.mode"
    change = [{"op": "test", "path": path, "value": "on"}, {"op": "replace", "path": path, "value": "off"}]
    kube.patch(NODE, change, JSON_PATCH)
    assert api.labels == {"nvidia.com/cc.mode": "off"}
    with pytest.raises(ApiError) as caught:
        kube.patch(NODE, change, JSON_PATCH)
    assert caught.value.status == 422


def test_an_event_is_posted(kube: Kube, api: KubeApi) -> None:
    event = {
        "metadata": {"generateName": "gpu-", "namespace": "default"},
        "involvedObject": {"kind": "Node", "name": "node-1"},
        "reason": "DeviceUnhealthy",
        "message": "0000:3b:00.0 left the bus",
        "type": "Warning",
    }
    kube.post("/api/v1/namespaces/default/events", event)
    assert [event.reason for event in api.events] == ["DeviceUnhealthy"]
    assert api.requests[-1].content_type == "application/json"


# --- who we are


def test_the_token_is_read_anew_for_each_request(kube: Kube, api: KubeApi, token_file: Path) -> None:
    """The kubelet rotates it."""
    kube.get(NODE)
    api.token = "second-token"
    token_file.write_text("second-token")
    kube.get(NODE)


def test_a_token_that_is_not_taken_is_401(kube: Kube, token_file: Path) -> None:
    token_file.write_text("old-token")
    error = error_of(kube)
    assert error.status == 401
    assert "the API server refused GET /api/v1/nodes/node-1: 401 Unauthorized" in str(error)


def test_a_token_that_cannot_be_read_is_named(kube: Kube, token_file: Path) -> None:
    token_file.unlink()
    error = error_of(kube)
    assert error.status == UNREACHABLE
    assert str(error) == f"cannot read the token {token_file} (No such file or directory)"


def test_a_token_of_garbage_is_named(kube: Kube, token_file: Path) -> None:
    token_file.write_bytes(b"\xff\xfe")
    error = error_of(kube)
    assert error.status == UNREACHABLE
    assert str(error) == f"cannot read the token {token_file} (it is no text)"


def test_a_fixed_token_or_none_is_taken_too(api: KubeApi) -> None:
    for token in ("first-token", None):
        api.token = token
        kube = Kube(ApiAccess(api.url, token=token))
        assert kube.get(NODE)
        kube.close()


def test_a_pod_finds_the_api_server_by_its_service_account(tmp_path: Path) -> None:
    (tmp_path / "token").touch()
    environment = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "6443"}
    access = in_cluster_access(environment, str(tmp_path))
    assert access == ApiAccess("https://10.96.0.1:6443", ca_file=f"{tmp_path}/ca.crt", token_file=f"{tmp_path}/token")
    assert in_cluster_access({"KUBERNETES_SERVICE_HOST": "fd00::1"}, str(tmp_path)).url == "https://[fd00::1]:443"


def test_outside_of_a_pod_that_is_said_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(NotSupported, match="give --kubeconfig"):
        in_cluster_access({}, str(tmp_path))
    with pytest.raises(NotSupported, match="not in a pod with a service account"):
        in_cluster_access({"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, str(tmp_path))


# --- refusals


def test_a_refusal_has_the_status_and_the_servers_own_words(kube: Kube, api: KubeApi) -> None:
    api.allow.discard(("get", "nodes"))
    error = error_of(kube)
    assert error.status == 403
    assert 'nodes "node-1" is forbidden' in str(error)


def test_what_does_not_exist_is_404(kube: Kube) -> None:
    assert error_of(kube, "/api/v1/nodes/other").status == 404


@pytest.mark.parametrize(("code", "retry_after_s"), [(429, 7), (503, 1), (500, None), (400, None)])
def test_a_busy_server_may_say_when_to_come_back(
    kube: Kube, api: KubeApi, code: int, retry_after_s: int | None
) -> None:
    api.faults.refuse(code, retry_after_s=retry_after_s)
    error = error_of(kube)
    assert (error.status, error.retry_after_s) == (code, retry_after_s)


@pytest.mark.parametrize("body", [b"", b"<html>bad gateway", b"[]", b'{"kind": "Status"}', b"\xff"])
def test_a_refusal_without_a_status_object_has_the_reason_of_http(body: bytes) -> None:
    with serving(answer(body, b"HTTP/1.1 502 Bad Gateway\r\nRetry-After: soon")) as server:
        error = error_of(unauthenticated(server.url))
    assert (error.status, error.retry_after_s) == (502, None)
    assert str(error) == "the API server refused GET /api/v1/nodes/node-1: 502 Bad Gateway"


# --- no answer


def test_a_server_that_is_away_is_one_sentence_with_its_address_and_later_it_is_asked_again(
    kube: Kube, api: KubeApi
) -> None:
    kube.get(NODE)
    api.stop()
    with pytest.raises(ApiError) as caught:
        kube.get(NODE)
    assert caught.value.status == UNREACHABLE
    assert str(caught.value).startswith(f"no answer from the API server at {api.url} (")
    assert "0x" not in str(caught.value)
    api.start()
    kube.get(NODE)


def test_a_dropped_connection_is_no_answer(kube: Kube, api: KubeApi) -> None:
    api.faults.drop()
    error = error_of(kube)
    assert error.status == UNREACHABLE
    assert "no answer from the API server" in str(error)


@pytest.mark.parametrize("body", [b"<html>try again", b"", b"[]", b'"text"', b"\xff\xfe", b"{"])
def test_an_answer_that_is_no_object_is_no_answer(kube: Kube, api: KubeApi, body: bytes) -> None:
    api.faults.garble(body)
    error = error_of(kube)
    assert error.status == UNREACHABLE
    assert str(error).startswith(f"the API server's answer to {NODE} is no JSON object: {body[:60]!r}")


def test_an_answer_that_is_cut_short_is_no_answer() -> None:
    with serving(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"kind":') as server:
        assert error_of(unauthenticated(server.url)).status == UNREACHABLE


def test_what_is_no_http_is_no_answer() -> None:
    with serving(b"SSH-2.0-OpenSSH_9.6\r\n") as server:
        assert error_of(unauthenticated(server.url)).status == UNREACHABLE
