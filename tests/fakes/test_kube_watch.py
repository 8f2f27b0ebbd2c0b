"""The simulated API server's watches, as those of the real server with its watch cache."""

from collections.abc import Iterator

import pytest
import urllib3

from tests.fakes.kube.api import KubeApi
from tests.fakes.kube.client import Client
from tests.fakes.kube.patch import text

BROKEN = urllib3.exceptions.HTTPError


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with KubeApi(labels={"mode": "on"}) as api:
        yield api


@pytest.fixture
def client(api: KubeApi) -> Iterator[Client]:
    client = Client(api)
    yield client
    client.close()


# Watches: kubernetes.io, "API concepts"; apiserver/pkg/storage/cacher.


def test_a_watch_sees_a_patch_at_once_and_stays_open(api: KubeApi, client: Client) -> None:
    listed = client.get("/api/v1/nodes", fieldSelector="metadata.name=node-1")
    with client.watch(fieldSelector="metadata.name=node-1", resourceVersion=listed.version) as events:
        for mode in ("off", "devtools", "on"):
            patched = client.merge_labels(mode=mode)
            event = next(events)
            assert (event.type, event.labels, event.version) == ("MODIFIED", {"mode": mode}, patched.version)
            assert event.object["kind"] == "Node"


def test_a_watch_starts_with_what_happened_since_its_version(api: KubeApi, client: Client) -> None:
    version = client.get("/api/v1/nodes").version
    api.set_label("mode", "off")
    api.set_label("mode", "devtools")

    with client.watch(resourceVersion=version) as events:
        assert [next(events).labels["mode"] for _ in range(2)] == ["off", "devtools"]


@pytest.mark.parametrize("version", ["", "0"])
def test_a_watch_without_a_version_starts_with_what_is_there(api: KubeApi, client: Client, version: str) -> None:
    with client.watch(resourceVersion=version) as events:
        event = next(events)
        assert (event.type, event.labels) == ("ADDED", {"mode": "on"})
        api.set_label("mode", "off")
        assert next(events).type == "MODIFIED"


def test_a_watch_sees_the_node_go_and_come_back_as_another(api: KubeApi, client: Client) -> None:
    with client.watch() as events:
        first = next(events)
        api.remove_node()
        gone = next(events)
        api.add_node({"mode": "off"})
        back = next(events)

    assert (gone.type, gone.labels) == ("DELETED", {"mode": "on"})
    assert (back.type, back.labels) == ("ADDED", {"mode": "off"})
    assert int(first.version) < int(gone.version) < int(back.version)
    assert text(back.object, "metadata", "uid") != text(first.object, "metadata", "uid")


def test_a_patch_without_effect_sends_no_event(api: KubeApi, client: Client) -> None:
    with client.watch(resourceVersion=str(api.state.version)) as events:
        client.merge_labels(mode="on")
        client.merge_labels(mode="off")
        assert next(events).labels == {"mode": "off"}


def test_a_watch_of_another_name_sees_nothing_of_this_node(api: KubeApi, client: Client) -> None:
    with client.watch(fieldSelector="metadata.name=node-2", allowWatchBookmarks="true") as events:
        api.set_label("mode", "off")
        api.send_bookmarks()
        assert next(events).type == "BOOKMARK"


def test_a_watch_of_nodes_sees_no_pods(api: KubeApi, client: Client) -> None:
    with client.watch(resourceVersion=str(api.state.version)) as events:
        api.add_pod("job", "work", {})
        api.set_label("mode", "off")
        assert next(events).object["kind"] == "Node"


def test_a_pod_that_leaves_the_selection_is_deleted_to_the_watch(api: KubeApi, client: Client) -> None:
    with client.watch("/api/v1/namespaces/work/pods", labelSelector="app=job") as events:
        api.add_pod("other", "work", {"app": "other"})
        api.add_pod("job", "elsewhere", {"app": "job"})
        api.add_pod("job", "work", {"app": "job"})
        api.remove_pod("job", "work")
        assert [(event.type, event.labels) for event in (next(events), next(events))] == [
            ("ADDED", {"app": "job"}),
            ("DELETED", {"app": "job"}),
        ]


def test_a_bookmark_carries_a_newer_version_and_no_state(api: KubeApi, client: Client) -> None:
    with client.watch(resourceVersion=str(api.state.version), allowWatchBookmarks="true") as events:
        api.send_bookmarks()
        bookmark = next(events)

    assert (bookmark.type, bookmark.object["kind"], bookmark.labels) == ("BOOKMARK", "Node", {})
    assert int(bookmark.version) > api.state.version
    with client.watch(resourceVersion=bookmark.version) as events:
        api.set_label("mode", "off")
        assert next(events).labels == {"mode": "off"}


def test_bookmarks_come_only_when_asked_for(api: KubeApi, client: Client) -> None:
    with client.watch(resourceVersion=str(api.state.version)) as events:
        api.send_bookmarks()
        api.set_label("mode", "off")
        assert next(events).type == "MODIFIED"


def test_bookmarks_come_by_themselves_on_a_quiet_watch() -> None:
    with KubeApi(bookmark_period_s=0.01) as api:
        client = Client(api)
        with client.watch(resourceVersion=str(api.state.version), allowWatchBookmarks="true") as events:
            assert [next(events).type for _ in range(3)] == ["BOOKMARK"] * 3
        client.close()


def test_a_watch_ends_after_its_timeout_with_a_bookmark_and_the_connection_goes_on(
    api: KubeApi, client: Client
) -> None:
    with client.watch(resourceVersion=str(api.state.version), allowWatchBookmarks="true", timeoutSeconds="1") as events:
        assert [event.type for event in events] == ["BOOKMARK"]
    assert client.get(client.node).status == 200
    assert client._pool.num_connections == 1
    assert api.open_watches == 0


def test_a_watch_from_a_compacted_version_gets_an_error_event_and_ends(api: KubeApi, client: Client) -> None:
    """Code 200 and an ERROR event: the watch cache cannot answer with a status code any more."""
    version = client.get("/api/v1/nodes").version
    api.compact()

    with client.watch(resourceVersion=version) as events:
        (only,) = events
    assert only.is_too_old
    with client.watch(resourceVersion=client.get("/api/v1/nodes").version) as events:
        api.set_label("mode", "off")
        assert next(events).type == "MODIFIED"


def test_a_compaction_does_not_touch_open_watches(api: KubeApi, client: Client) -> None:
    with client.watch(resourceVersion=str(api.state.version)) as events:
        api.compact()
        api.set_label("mode", "off")
        assert next(events).type == "MODIFIED"


def test_the_history_is_bounded() -> None:
    with KubeApi(history_limit=2) as api:
        client = Client(api)
        versions = [str(api.state.version)]
        for value in ("1", "2", "3"):
            api.set_label("x", value)
            versions.append(str(api.state.version))
        with client.watch(resourceVersion=versions[0]) as events:
            assert next(events).is_too_old
        with client.watch(resourceVersion=versions[1]) as events:
            assert next(events).labels == {"x": "2"}
        client.close()


def test_a_version_that_is_no_number_is_400(client: Client) -> None:
    assert client.get("/api/v1/nodes", watch="true", resourceVersion="newest").status == 400


def test_a_watch_needs_its_own_right(api: KubeApi, client: Client) -> None:
    api.allow.discard(("watch", "nodes"))

    assert client.get("/api/v1/nodes", watch="true").status == 403
    assert client.get("/api/v1/nodes").status == 200


def test_a_watch_outlives_the_token_it_was_opened_with(api: KubeApi, client: Client) -> None:
    with client.watch(resourceVersion=str(api.state.version)) as events:
        api.token = "second-token"
        api.set_label("mode", "off")
        assert next(events).type == "MODIFIED"


def test_a_watch_that_its_client_leaves_is_noticed(api: KubeApi, client: Client) -> None:
    with client.watch():
        assert api.open_watches == 1
    api.wait_until(lambda: api.open_watches == 0)


def test_cut_watches_break_at_the_client_and_it_can_watch_again(api: KubeApi, client: Client) -> None:
    version = str(api.state.version)
    with client.watch(resourceVersion=version) as first, client.watch(resourceVersion=version) as second:
        api.cut_watches()
        assert api.open_watches == 0
        for events in (first, second):
            with pytest.raises(BROKEN):
                next(events)
    with client.watch(resourceVersion=version) as events:
        api.set_label("mode", "off")
        assert next(events).type == "MODIFIED"
