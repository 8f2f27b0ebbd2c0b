"""Where the API server is: what a kubeconfig says, and what is said of one that says nothing."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cc_manager.cluster.kube_access import open_kube
from cc_manager.cluster.kube_node import KubeNode
from nodelib.errors import InvalidValue, NotSupported
from tests.fakes.kube.api import KubeApi


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with KubeApi("node-1", {"zone": "a"}) as api:
        yield api


def test_a_kubeconfig_leads_to_the_server(api: KubeApi, tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(kubeconfig(server=api.url, token=api.token))
    kube = open_kube(str(path))
    with contextlib.closing(kube):
        assert KubeNode(kube, "node-1").view().labels == {"zone": "a"}


def kubeconfig(**cluster_and_token: object) -> str:
    token = cluster_and_token.pop("token", "t")
    return json.dumps(
        {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": cluster_and_token}],
            "users": [{"name": "u", "user": {"token": token}}],
        }
    )


@pytest.mark.parametrize(
    "content",
    [
        "",
        "hello",
        "[1]",
        "a: [}",
        "\tx",
        "a: b",
        '{"current-context": "c", "contexts": null}',
        '{"current-context": "c", "contexts": [1]}',
        kubeconfig(),
        kubeconfig(server=5),
        kubeconfig(server="nonsense"),
        kubeconfig(**{"server": "https://x", "certificate-authority": "/not/there"}),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_told_in_one_sentence(tmp_path: Path, content: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(content)
    with pytest.raises(InvalidValue) as told:
        open_kube(str(path))
    assert str(told.value).startswith(f"kubeconfig {path} cannot be used: ")
    assert "\n" not in str(told.value)


def test_a_kubeconfig_that_is_not_there_or_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("absent", "binary", "."):
        with pytest.raises(InvalidValue, match="cannot be used: "):
            open_kube(str(tmp_path / name))


def test_outside_of_a_pod_and_without_a_kubeconfig_it_is_said_what_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(NotSupported, match="not in a pod with a service account: give --kubeconfig"):
        open_kube(None)
