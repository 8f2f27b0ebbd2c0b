"""Watches through the one door to the Kubernetes API. Field problem 27."""

import threading

import pytest

from nodelib.kube import UNREACHABLE, ApiError, Kube
from tests.fakes.kube.api import KubeApi
from tests.nodelib.kube_parts import NODES, field, unauthenticated
from tests.nodelib.samples import wait_until
from tests.nodelib.scripted_server import CHUNKED, END, chunk, serving


def test_a_watch_tells_what_changes_after_a_version(kube: Kube, api: KubeApi) -> None:
    version = field(kube.get(NODES), "metadata", "resourceVersion")
    query = {"fieldSelector": "metadata.name=node-1", "resourceVersion": str(version)}
    with kube.watch(NODES, query, 60.0) as watch:
        events = iter(watch)
        api.set_label("nvidia.com/cc.mode", "off")
        event = next(events)
        assert event["type"] == "MODIFIED"
        assert field(event, "object", "metadata", "labels") == {"nvidia.com/cc.mode": "off"}
        api.send_bookmarks()
        assert next(events)["type"] == "BOOKMARK"
    assert api.requests[-1].query == {
        **query,
        "watch": "true",
        "allowWatchBookmarks": "true",
        "timeoutSeconds": "60",
    }
    api.wait_until(lambda: api.open_watches == 0)


def test_a_watch_ends_when_the_server_says_so() -> None:
    with serving(CHUNKED + chunk(b'{"type": "ADDED"}\n') + END) as server:
        kube = unauthenticated(server.url)
        with kube.watch(NODES, {}, 60.0) as watch:
            assert [event["type"] for event in watch] == ["ADDED"]
        kube.close()


def test_events_are_whole_however_they_arrive() -> None:
    lines = b'{"type": "ADDED", "object": {"name": "\xc3\xbc"}}\n\n{"type": "MODIFIED"}\n{"type": "DELETED"}\n'
    for size in (1, 7, 30, len(lines)):
        chunks = [chunk(lines[start : start + size]) for start in range(0, len(lines), size)]
        with serving(CHUNKED + b"".join(chunks) + END) as server:
            kube = unauthenticated(server.url)
            with kube.watch(NODES, {}, 60.0) as watch:
                events = list(watch)
            kube.close()
        assert [event["type"] for event in events] == ["ADDED", "MODIFIED", "DELETED"]
        assert events[0]["object"] == {"name": "ü"}


def test_a_watch_that_is_refused_is_refused_at_its_beginning(kube: Kube, api: KubeApi) -> None:
    api.allow.discard(("watch", "nodes"))
    with pytest.raises(ApiError) as caught, kube.watch(NODES, {}, 60.0):
        pytest.fail("a watch without the right to it")
    assert caught.value.status == 403


def test_a_version_that_is_too_old_is_410_and_a_new_list_helps(kube: Kube, api: KubeApi) -> None:
    """Field problem 27."""
    version = str(field(kube.get(NODES), "metadata", "resourceVersion"))
    api.set_label("a", "b")
    api.compact()
    codes: list[object] = []
    try:
        with kube.watch(NODES, {"resourceVersion": version}, 60.0) as watch:
            codes.append(field(next(iter(watch)), "object", "code"))
    except ApiError as error:
        codes.append(error.status)
    assert codes == [410]
    assert field(kube.get(NODES), "metadata", "resourceVersion") != version


def test_a_connection_that_breaks_is_an_error_and_no_end(kube: Kube, api: KubeApi) -> None:
    with kube.watch(NODES, {}, 60.0) as watch:
        events = iter(watch)
        assert next(events)["type"] == "ADDED"
        api.cut_watches()
        with pytest.raises(ApiError, match="the watch of /api/v1/nodes broke") as caught:
            next(events)
    assert caught.value.status == UNREACHABLE


def test_garbage_in_a_watch_is_an_error() -> None:
    with serving(CHUNKED + chunk(b'{"type": "ADDED"}\n<html>\n')) as server:
        kube = unauthenticated(server.url)
        with kube.watch(NODES, {}, 60.0) as watch:
            events = iter(watch)
            assert next(events)["type"] == "ADDED"
            with pytest.raises(ApiError, match="is no JSON object: b'<html>'"):
                next(events)
        kube.close()


def test_a_blocked_watch_is_cut_from_another_thread(kube: Kube, api: KubeApi) -> None:
    ended = threading.Event()
    with kube.watch(NODES, {}, 60.0) as watch:

        def read() -> None:
            try:
                for _event in watch:
                    pass
            except ApiError:
                pass  # a cut connection is a broken one
            ended.set()

        reader = threading.Thread(target=read)
        reader.start()
        api.wait_until(lambda: api.open_watches == 1)
        watch.cut()
        wait_until(ended.is_set)
        reader.join()


def test_a_watch_may_be_cut_after_its_end() -> None:
    """The thread that stops us cannot know that the server was faster."""
    with serving(CHUNKED + END) as server:
        kube = unauthenticated(server.url)
        with kube.watch(NODES, {}, 60.0) as watch:
            assert list(watch) == []
            watch.cut()
        watch.cut()
        kube.close()
