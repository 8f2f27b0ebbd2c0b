"""What the simulated API server makes of patches of its node, good and bad."""

from collections.abc import Iterator

import pytest

from tests.fakes.kube.api import KubeApi
from tests.fakes.kube.client import Client
from tests.fakes.kube.patch import JsonObject, JsonValue, section, text

CC_MODE = "nvidia.com/cc.mode"
AT_CC_MODE = "/metadata/labels/nvidia.com~1cc.mode"


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with KubeApi(labels={CC_MODE: "on", "other": "kept"}) as api:
        yield api


@pytest.fixture
def client(api: KubeApi) -> Iterator[Client]:
    client = Client(api)
    yield client
    client.close()


# Merge patches: RFC 7386, and kubernetes, apiserver/pkg/endpoints/handlers/patch.go.


def test_a_merge_patch_changes_its_keys_and_leaves_the_others(api: KubeApi, client: Client) -> None:
    answer = client.merge_patch({"metadata": {"labels": {CC_MODE: "off"}, "annotations": {"why": "asked"}}})

    assert answer.status == 200
    assert answer.labels == {CC_MODE: "off", "other": "kept"}
    assert api.labels == {CC_MODE: "off", "other": "kept"}
    assert api.annotations == {"why": "asked"}


def test_a_merge_patch_with_null_deletes_the_key_as_rfc_7386_says(api: KubeApi, client: Client) -> None:
    assert client.merge_labels(other=None).status == 200
    assert api.labels == {CC_MODE: "on"}


def test_a_merge_patch_with_null_for_a_key_that_is_absent_changes_nothing(api: KubeApi, client: Client) -> None:
    assert client.merge_labels(absent=None).status == 200
    assert api.labels == {CC_MODE: "on", "other": "kept"}


def test_a_patch_that_changes_nothing_keeps_the_version(api: KubeApi, client: Client) -> None:
    before = api.state.version
    answer = client.merge_patch({"metadata": {"labels": {CC_MODE: "on"}}})

    assert answer.status == 200
    assert answer.version == str(before)
    assert client.merge_labels(other="new").version == str(before + 1)


def test_a_merge_patch_with_the_current_version_is_taken(api: KubeApi, client: Client) -> None:
    patch: JsonObject = {"metadata": {"resourceVersion": str(api.state.version), "labels": {"x": "1"}}}

    assert client.merge_patch(patch).status == 200
    assert api.labels["x"] == "1"


def test_a_merge_patch_with_an_older_version_is_409_and_changes_nothing(api: KubeApi, client: Client) -> None:
    read = client.get(client.node)
    api.set_label("other", "changed")
    answer = client.merge_patch({"metadata": {"resourceVersion": read.version, "labels": {"x": "1"}}})

    assert (answer.status, answer.reason) == (409, "Conflict")
    assert api.labels == {CC_MODE: "on", "other": "changed"}


def test_a_merge_patch_for_another_uid_is_409(client: Client) -> None:
    answer = client.merge_patch({"metadata": {"uid": "of-a-node-with-this-name-before"}})

    assert (answer.status, answer.reason) == (409, "Conflict")


@pytest.mark.parametrize("metadata", [{"name": "node-2"}, {"name": None}])
def test_a_patch_cannot_rename_a_node(client: Client, metadata: JsonObject) -> None:
    assert client.merge_patch({"metadata": metadata}).status == 400


def test_the_creation_time_cannot_be_changed(client: Client) -> None:
    assert client.merge_patch({"metadata": {"creationTimestamp": "2020-01-01T00:00:00Z"}}).status == 422


def test_a_patch_of_the_node_does_not_reach_its_status(api: KubeApi, client: Client) -> None:
    """Status is written through nodes/status only (registry/core/node/strategy.go, PrepareForUpdate)."""
    before = api.state.version

    assert client.merge_patch({"status": {"phase": "Gone"}}).version == str(before)


def test_a_field_that_nodes_do_not_have_is_dropped(api: KubeApi, client: Client) -> None:
    before = api.state.version

    assert client.merge_patch({"metadata": {"label": {"x": "1"}}, "nonsense": 1}).version == str(before)


@pytest.mark.parametrize("body", [b"{", b"[]", b'"text"', b"\xff"])
def test_a_merge_patch_that_is_no_json_object_is_400(client: Client, body: bytes) -> None:
    answer = client.merge_patch(body)

    assert (answer.status, answer.reason) == (400, "BadRequest")


# JSON patches: RFC 6902, and the library in the API server, evanphx/json-patch v4.


def test_a_json_patch_tests_and_replaces_with_an_escaped_slash(api: KubeApi, client: Client) -> None:
    answer = client.json_patch(
        {"op": "test", "path": AT_CC_MODE, "value": "on"},
        {"op": "replace", "path": AT_CC_MODE, "value": "off"},
    )

    assert answer.status == 200
    assert api.labels == {CC_MODE: "off", "other": "kept"}


def test_a_json_patch_adds_and_removes(api: KubeApi, client: Client) -> None:
    answer = client.json_patch(
        {"op": "add", "path": "/metadata/labels/new", "value": "here"},
        {"op": "remove", "path": "/metadata/labels/other"},
        {"op": "add", "path": "/metadata/annotations", "value": {"a~b/c": "escaped"}},
        {"op": "move", "from": "/metadata/annotations/a~0b~1c", "path": "/metadata/annotations/moved"},
        {"op": "copy", "from": "/metadata/annotations/moved", "path": "/metadata/annotations/copied"},
    )

    assert answer.status == 200
    assert api.labels == {CC_MODE: "on", "new": "here"}
    assert api.annotations == {"moved": "escaped", "copied": "escaped"}


def test_a_json_patch_reaches_into_lists(client: Client) -> None:
    answer = client.json_patch(
        {"op": "add", "path": "/spec/taints", "value": [{"key": "first"}]},
        {"op": "add", "path": "/spec/taints/-", "value": {"key": "last"}},
        {"op": "add", "path": "/spec/taints/0", "value": {"key": "new first"}},
        {"op": "replace", "path": "/spec/taints/1/key", "value": "second"},
        {"op": "remove", "path": "/spec/taints/2"},
    )

    assert section(answer.body, "spec") == {"taints": [{"key": "new first"}, {"key": "second"}]}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": AT_CC_MODE, "value": "off"},
        {"op": "test", "path": AT_CC_MODE, "value": None},
        {"op": "test", "path": AT_CC_MODE, "value": True},
        {"op": "test", "path": "/metadata/labels/absent", "value": "x"},
        {"op": "replace", "path": "/metadata/labels/absent", "value": "x"},
        {"op": "remove", "path": "/metadata/labels/absent"},
        {"op": "add", "path": "/metadata/annotations/x", "value": "no annotations to add it to"},
        {"op": "add", "path": "/metadata/labels/other/deeper", "value": "x"},
        {"op": "remove", "path": "/spec/taints/0"},
        {"op": "replace", "path": "no-slash", "value": "x"},
        {"op": "replace", "path": "", "value": {}},
        {"op": "increment", "path": AT_CC_MODE},
        {"path": AT_CC_MODE},
        {"op": "remove"},
        {"op": "copy", "path": AT_CC_MODE},
    ],
)
def test_a_json_patch_that_does_not_apply_is_422_and_changes_nothing(
    api: KubeApi, client: Client, operation: JsonObject
) -> None:
    """A failed `test`, too, is 422 and no 409, with a message that does not say what failed."""
    before = api.state
    answer = client.json_patch({"op": "add", "path": "/metadata/labels/new", "value": "half"}, operation)

    assert (answer.status, answer.reason) == (422, "Invalid")
    assert text(answer.body, "message") == "the server rejected our request due to an error in our request"
    assert api.state == before


def test_a_test_for_null_passes_where_the_label_is_absent(api: KubeApi, client: Client) -> None:
    """Beyond RFC 6902 (evanphx/json-patch v4, Patch.test): how a client adds only what is not there."""
    add: tuple[JsonObject, JsonObject] = (
        {"op": "test", "path": "/metadata/labels/new", "value": None},
        {"op": "add", "path": "/metadata/labels/new", "value": "mine"},
    )

    assert client.json_patch(*add).status == 200
    assert api.labels["new"] == "mine"
    assert client.json_patch(*add).status == 422


def test_a_null_from_a_json_patch_is_stored_as_an_empty_label(api: KubeApi, client: Client) -> None:
    """Go decodes null into the empty string: the label is not removed, as it would be by a merge."""
    assert client.json_patch({"op": "replace", "path": AT_CC_MODE, "value": None}).status == 200
    assert api.labels[CC_MODE] == ""


@pytest.mark.parametrize("body", [b"[", b"{}", b"[1]"])
def test_a_json_patch_that_is_no_list_of_operations_is_400(client: Client, body: bytes) -> None:
    assert client.call("PATCH", client.node, body, "application/json-patch+json").status == 400


@pytest.mark.parametrize("content_type", ["", "application/json", "text/plain"])
def test_a_patch_of_an_unknown_kind_is_415(api: KubeApi, client: Client, content_type: str) -> None:
    answer = client.call("PATCH", client.node, {"metadata": {"labels": {"x": "1"}}}, content_type)

    assert (answer.status, answer.reason) == (415, "UnsupportedMediaType")
    assert "x" not in api.labels


def test_a_content_type_may_carry_parameters(client: Client) -> None:
    patch: JsonObject = {"metadata": {"labels": {"x": "1"}}}

    assert client.call("PATCH", client.node, patch, "application/merge-patch+json; charset=utf-8").status == 200


# Labels: apimachinery, util/validation, IsQualifiedName and IsValidLabelValue.


@pytest.mark.parametrize("value", ["", "a", "A.b_c-9", "x" * 63])
def test_a_label_value_is_short_and_plain(api: KubeApi, client: Client, value: str) -> None:
    assert client.merge_labels(x=value).status == 200
    assert api.labels["x"] == value


@pytest.mark.parametrize("value", ["x" * 64, "two words", "-a", "a-", "a/b", "\u00e9", "a\n", 1, True, {}])
def test_another_label_value_is_422(api: KubeApi, client: Client, value: JsonValue) -> None:
    before = api.state
    answer = client.merge_patch({"metadata": {"labels": {"x": value}}})

    assert (answer.status, answer.reason) == (422, "Invalid")
    assert api.state == before


@pytest.mark.parametrize("key", ["", "a b", "/a", "a/", "Upper.example/a", "a/b/c", "x" * 64, "x" * 254 + "/a"])
def test_a_label_key_that_is_no_qualified_name_is_422(client: Client, key: str) -> None:
    assert client.merge_patch({"metadata": {"labels": {key: "x"}}}).status == 422


def test_annotations_hold_any_text_up_to_256_kib_together(api: KubeApi, client: Client) -> None:
    assert client.merge_patch({"metadata": {"annotations": {"text": "any: {thing}\n"}}}).status == 200
    answer = client.merge_patch({"metadata": {"annotations": {"big": "x" * 256 * 1024}}})

    assert answer.status == 422
    assert api.annotations == {"text": "any: {thing}\n"}
