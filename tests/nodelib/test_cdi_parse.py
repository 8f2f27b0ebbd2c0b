"""Reading any vendor's CDI spec as strictly as container runtimes do.

Rules: facts/kubelet-cdi-kata-contract.md, section CDI (Container Device Interface specification 1.1.0).
"""

import copy
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nodelib.cdi import CdiDevice, CdiSpec
from nodelib.cdi_parse import VERSIONS, parse_spec
from nodelib.errors import InvalidValue
from tests.nodelib.samples import PROPERTY

# What another vendor's generator writes: everything that 1.1.0 knows.
FULL = """
cdiVersion: 1.1.0
kind: vendor.com/net.gpu
annotations: {team: storage}
containerEdits:
  env: [MODE=all, EMPTY=]
  netDevices: [{hostInterfaceName: eth0, name: eth1}]
devices:
  - name: "0"
    annotations: {slot: "7"}
    containerEdits:
      env: ["A=b=c"]
      deviceNodes:
        - {path: /dev/gpu0, hostPath: /dev/host-gpu0, type: c, major: 195, minor: 0, permissions: rwm, uid: 0, gid: 0}
        - {path: /dev/gpuctl, fileMode: 438, type: ""}
      mounts:
        - {hostPath: /usr/lib/a.so, containerPath: /usr/lib/a.so, options: [ro, bind], type: bind}
      hooks:
        - {hookName: createContainer, path: /usr/bin/hook, args: [hook, run], env: [A=b], timeout: 5}
      intelRdt: {closID: gpu}
      additionalGids: [44]
  - name: all
    containerEdits: {env: [ALL=1]}
"""


def document(text: str = FULL) -> dict[str, object]:
    parsed = yaml.safe_load(text)
    assert isinstance(parsed, dict)
    return parsed


def minimal(
    version: str = "0.5.0", name: str = "gpu0", kind: str = "vendor.com/gpu", **edits: object
) -> dict[str, object]:
    edits = edits or {"deviceNodes": [{"path": "/dev/gpu0"}]}
    return {"cdiVersion": version, "kind": kind, "devices": [{"name": name, "containerEdits": edits}]}


def refusal(value: object) -> str:
    with pytest.raises(InvalidValue) as caught:
        parse_spec(value, "/etc/cdi/vendor.yaml")
    text = str(caught.value)
    assert text.startswith("/etc/cdi/vendor.yaml: ")
    return text.removeprefix("/etc/cdi/vendor.yaml: ")


def test_a_full_spec_of_another_vendor_is_read() -> None:
    assert parse_spec(document(), "x") == CdiSpec(
        "vendor.com/net.gpu",
        (CdiDevice("0", ("/dev/host-gpu0", "/dev/gpuctl")), CdiDevice("all", ())),
        "1.1.0",
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_a_minimal_spec_is_valid_in_every_version(version: str) -> None:
    assert parse_spec(minimal(version), "x").version == version


@pytest.mark.parametrize("version", ["0.2.0", "0.9.0", "v0.5.0", "2.0.0", "0.5"])
def test_an_unknown_version_is_refused_with_those_that_are_known(version: str) -> None:
    assert refusal(minimal(version)) == f"cdiVersion '{version}' is not one of {', '.join(VERSIONS)}"


@pytest.mark.parametrize("value", [None, [], "text", 7, [minimal()]])
def test_what_is_no_mapping_is_no_spec(value: object) -> None:
    assert refusal(value) == "this is not a mapping"


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("cdiVersion", "cdiVersion is missing"),
        ("kind", "kind is missing"),
        ("devices", "no devices; a spec without any is invalid, remove the file instead"),
    ],
)
def test_what_every_spec_must_have(missing: str, words: str) -> None:
    spec = minimal()
    del spec[missing]
    assert refusal(spec) == words
    assert refusal(spec | {missing: None}) == words


def test_a_spec_without_a_device_is_invalid() -> None:
    assert "no devices" in refusal(minimal() | {"devices": []})


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ((), ""),
        (("containerEdits",), "containerEdits: "),
        (("devices", 1), "devices[1]: "),
        (("devices", 0, "containerEdits"), "devices[0].containerEdits: "),
        (("devices", 0, "containerEdits", "deviceNodes", 1), "devices[0].containerEdits.deviceNodes[1]: "),
        (("devices", 0, "containerEdits", "mounts", 0), "devices[0].containerEdits.mounts[0]: "),
        (("devices", 0, "containerEdits", "hooks", 0), "devices[0].containerEdits.hooks[0]: "),
    ],
)
def test_an_unknown_field_anywhere_makes_the_file_invalid(path: tuple[str | int, ...], place: str) -> None:
    """An owner can therefore not be marked by a field."""
    spec = document()
    inner: object = spec
    for step in path:
        inner = inner[step]  # type: ignore[index] # parsed YAML, whose shape the test knows
    assert isinstance(inner, dict)
    inner["x-owner"] = "us"
    assert refusal(spec) == f"{place}unknown field 'x-owner'"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cdiVersion": 0.5}, "cdiVersion is 0.5, not a text"),
        ({"cdiVersion": ["0.5.0"]}, "cdiVersion is ['0.5.0'], not a text"),
        ({"kind": 7}, "kind is 7, not a text"),
        ({"devices": {"name": "gpu0"}}, "devices is {'name': 'gpu0'}, not a list"),
        ({"devices": "gpu0"}, "devices is 'gpu0', not a list"),
        ({"devices": ["gpu0"]}, "devices[0]: this is not a mapping"),
        ({"containerEdits": []}, "containerEdits is [], not a mapping"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(change: dict[str, object], words: str) -> None:
    assert refusal(minimal() | change) == words


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({}, "path is missing"),
        ({"path": ""}, "path is missing"),
        ({"path": "/dev/a", "major": "195"}, "major is '195', not a whole number"),
        ({"path": "/dev/a", "minor": True}, "minor is True, not a whole number"),
        ({"path": "/dev/a", "type": "x"}, "type 'x' is not b, c, u or p"),
        ({"path": "/dev/a", "permissions": "rx"}, "permissions 'rx' are not of r, w and m"),
        ("/dev/a", "this is not a mapping"),
    ],
)
def test_a_wrong_device_node_is_named(node: object, words: str) -> None:
    assert refusal(minimal(deviceNodes=[node])) == f"devices[0].containerEdits.deviceNodes[0]: {words}"


@pytest.mark.parametrize("variable", ["NAME", "", "=value", 7, None])
def test_an_environment_variable_needs_a_name_and_a_value(variable: object) -> None:
    assert refusal(minimal(env=[variable])) == f"devices[0].containerEdits.env[0]: {variable!r} is not NAME=VALUE"


@pytest.mark.parametrize("missing", ["hostPath", "containerPath"])
def test_a_mount_needs_both_its_paths(missing: str) -> None:
    mount = {"hostPath": "/a", "containerPath": "/b"}
    del mount[missing]
    assert refusal(minimal(mounts=[mount])) == f"devices[0].containerEdits.mounts[0]: {missing} is missing"


def test_a_hook_needs_a_name_of_the_oci_and_a_path() -> None:
    place = "devices[0].containerEdits.hooks[0]: "
    assert refusal(minimal(hooks=[{"hookName": "createContainer"}])) == f"{place}path is missing"
    assert refusal(minimal(hooks=[{"path": "/hook"}])) == f"{place}hookName is missing"
    assert refusal(minimal(hooks=[{"hookName": "later", "path": "/h"}])) == f"{place}'later' is no OCI hook"


@pytest.mark.parametrize("edits", [{}, None, {"env": []}, {"env": None, "mounts": []}])
def test_a_device_without_an_edit_is_invalid(edits: object) -> None:
    spec = minimal() | {"devices": [{"name": "gpu0", "containerEdits": edits}]}
    assert re.fullmatch(r"devices\[0\].*(containerEdits is missing|there is no edit in it)", refusal(spec))


def test_a_device_without_edits_at_all_or_without_a_name_is_invalid() -> None:
    assert refusal(minimal() | {"devices": [{"name": "gpu0"}]}) == "devices[0]: containerEdits is missing"
    assert refusal(minimal(name="")) == "devices[0]: name is missing"


@pytest.mark.parametrize("edits", [{}, None, {"env": []}])
def test_the_edits_for_all_devices_may_be_empty(edits: object) -> None:
    assert parse_spec(minimal() | {"containerEdits": edits}, "x").devices


def test_the_edits_for_all_devices_are_checked_too() -> None:
    assert (
        refusal(minimal() | {"containerEdits": {"env": ["NAME"]}}) == "containerEdits.env[0]: 'NAME' is not NAME=VALUE"
    )


def test_null_is_an_absent_field() -> None:
    """As Go reads YAML and JSON, in which the runtimes are written."""
    node = {"path": "/dev/a", "hostPath": None, "type": None, "major": None, "permissions": None}
    mount = {"hostPath": "/a", "containerPath": "/b", "options": None, "type": None}
    spec = minimal("0.3.0", deviceNodes=[node], mounts=[mount], hooks=None, intelRdt=None) | {"annotations": None}
    assert parse_spec(spec, "x").devices == (CdiDevice("gpu0", ("/dev/a",)),)


# --- kinds and names


@pytest.mark.parametrize(
    "kind", ["gpu", "/gpu", "vendor.com/", "1vendor/gpu", "vendor.com/1gpu", "vendor/gpu/a", "v_/g"]
)
def test_a_kind_is_vendor_slash_class(kind: str) -> None:
    assert refusal(minimal(kind=kind)) == f"kind {kind!r} is not vendor/class by CDI 0.5.0"


@pytest.mark.parametrize("name", ["-gpu", "gpu-", "gpu 0", "gpu/0", "gpu=0", "\u0663"])
def test_a_device_name_must_be_one_that_cdi_allows(name: str) -> None:
    assert refusal(minimal(name=name)) == f"devices[0]: the name {name!r} is not one that CDI allows"


def test_a_name_that_stands_there_twice_makes_the_file_invalid() -> None:
    """Field problem 7."""
    spec = minimal()
    spec["devices"] = [{"name": name, "containerEdits": {"env": ["A=b"]}} for name in ("a", "b", "a")]
    assert refusal(spec) == "the device name 'a' stands there twice"


def test_a_number_for_a_name_is_the_text_that_the_runtimes_make_of_it() -> None:
    """Seen with podman 4.3: `name: 65` resolves as 65."""
    spec = minimal()
    spec["devices"] = [{"name": 65, "containerEdits": {"env": ["A=b"]}}]
    assert parse_spec(spec, "x").devices == (CdiDevice("65", ()),)


def test_a_message_stays_short_whatever_stands_in_the_file() -> None:
    bomb: list[object] = ["x" * 10_000]
    for _ in range(40):
        bomb = [bomb] * 40
    for spec in (minimal() | {"kind": bomb}, minimal(kind="x" * 10_000), minimal(env=[bomb]), {"x" * 10_000: 1}):
        assert len(refusal(spec)) < 250


# --- what came with which version


@pytest.mark.parametrize(
    ("since", "change", "what"),
    [
        ("0.4.0", minimal(mounts=[{"hostPath": "/a", "containerPath": "/b", "type": "bind"}]), "a mount's type"),
        ("0.5.0", minimal(deviceNodes=[{"path": "/a", "hostPath": "/b"}]), "hostPath"),
        ("0.5.0", minimal(name="0"), "the name '0', which begins with a digit,"),
        ("0.6.0", minimal() | {"annotations": {"a": "b"}}, "annotations"),
        ("0.7.0", minimal(intelRdt={"closID": "a"}), "intelRdt"),
        ("0.7.0", minimal(additionalGids=[1]), "additionalGids"),
        ("1.1.0", minimal(netDevices=[{"hostInterfaceName": "a", "name": "b"}]), "netDevices"),
    ],
)
def test_a_field_needs_the_version_that_brought_it(since: str, change: dict[str, object], what: str) -> None:
    before = VERSIONS[VERSIONS.index(since) - 1]
    assert refusal(change | {"cdiVersion": before}).endswith(
        f"{what} needs cdiVersion {since} or later, the file says {before}"
    )
    assert parse_spec(change | {"cdiVersion": since}, "x").version == since


def test_a_class_may_hold_dots_from_0_6_0_on() -> None:
    assert "is not vendor/class by CDI 0.5.0" in refusal(minimal("0.5.0", kind="vendor.com/net.gpu"))
    assert parse_spec(minimal("0.6.0", kind="vendor.com/net.gpu"), "x").kind == "vendor.com/net.gpu"


def test_mounts_and_hooks_are_as_old_as_cdi() -> None:
    """A mount's hostPath has been there from the start; only a device node's came with 0.5.0."""
    mount = {"hostPath": "/a", "containerPath": "/b", "options": ["ro"]}
    hook = {"hookName": "createContainer", "path": "/hook"}
    assert parse_spec(minimal("0.3.0", mounts=[mount], hooks=[hook]), "x").version == "0.3.0"


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@st.composite
def spoilt_documents(draw: st.DrawFn) -> object:
    """The full spec with one value of it replaced by junk."""
    spec: object = copy.deepcopy(document())
    inner = spec
    while True:
        keys: list[object] = list(inner) if isinstance(inner, dict) else list(range(len(inner)))  # type: ignore[arg-type]
        key = draw(st.sampled_from(keys))
        value = inner[key]  # type: ignore[index] # parsed YAML
        if not isinstance(value, dict | list) or not value or draw(st.integers(0, 3)) == 0:
            inner[key] = draw(JUNK)  # type: ignore[index] # parsed YAML
            return spec
        inner = value


@PROPERTY
@given(spoilt_documents() | JUNK)
def test_whatever_stands_in_a_file_it_is_a_spec_or_one_sentence(value: object) -> None:
    fault = "x.yaml: "
    try:
        assert parse_spec(value, "x.yaml").devices
    except InvalidValue as error:
        fault = str(error)
    assert fault.startswith("x.yaml: ")
