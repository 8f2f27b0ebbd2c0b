"""What the node's labels ask for, and what we make them say: values only."""

import json

import pytest

from cc_manager.cluster import labels
from cc_manager.cluster.labels import NodeView, Publication
from cc_manager.gpu.chips import HOPPER_GPU
from cc_manager.mode import CcMode, ModeBits
from cc_manager.observation import Observation, Verified
from nodelib.errors import InvalidValue
from nodelib.pci import PciAddress, PciDevice

FIRST, SECOND = PciAddress(0, 0x1B, 0, 0), PciAddress(0, 0x1C, 0, 0)
BARE = NodeView({}, {})


def seen(address: PciAddress, cc: int | None, staged: int | None = None, *, in_use: bool = False) -> Observation:
    device = PciDevice(address, 0x10DE, 0x2330, 0x030200)
    active = None if cc is None else ModeBits(cc)
    return Observation(device, HOPPER_GPU, in_use=in_use, active=active, staged=ModeBits(staged) if staged else active)


# --- what is asked for


@pytest.mark.parametrize("mode", ["on", "off", "devtools", "ppcie"])
@pytest.mark.parametrize("host_capable", [True, False])
def test_the_label_decides_whatever_the_host_can_do(mode: str, host_capable: bool) -> None:
    assert labels.desired_mode({labels.MODE: mode}, CcMode.ON, host_capable=host_capable).value == mode


@pytest.mark.parametrize(
    ("default", "host_capable", "mode"),
    [
        (CcMode.ON, True, CcMode.ON),
        (CcMode.DEVTOOLS, True, CcMode.DEVTOOLS),
        (CcMode.ON, False, CcMode.OFF),
        (CcMode.PPCIE, False, CcMode.OFF),
    ],
)
def test_without_a_label_the_default_holds_and_off_where_the_cpu_protects_nothing(
    default: CcMode, host_capable: bool, mode: CcMode
) -> None:
    assert labels.desired_mode({"other": "on"}, default, host_capable=host_capable) is mode


def test_an_empty_value_is_taken_as_an_absent_label() -> None:
    for host_capable, mode in ((True, CcMode.DEVTOOLS), (False, CcMode.OFF)):
        assert labels.desired_mode({labels.MODE: ""}, CcMode.DEVTOOLS, host_capable=host_capable) is mode


@pytest.mark.parametrize("text", ["ON", "yes", "true", "off.", "0", "o" * 63])
def test_a_value_that_is_no_mode_is_refused_with_the_label_and_the_allowed_values(text: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        labels.desired_mode({labels.MODE: text}, CcMode.ON, host_capable=True)
    assert str(refused.value) == (
        f"label nvidia.com/cc.mode: {text!r} is not a confidential-computing mode: write off, on, devtools or ppcie"
    )


# --- what is said


@pytest.mark.parametrize(
    ("mode", "ready"), [(CcMode.ON, "true"), (CcMode.PPCIE, "true"), (CcMode.OFF, "false"), (CcMode.DEVTOOLS, "")]
)
def test_a_verified_mode_is_published_with_the_ready_value_that_manifests_select(mode: CcMode, ready: str) -> None:
    patch = labels.succeeded(mode, "{}", 8).patch(BARE)
    assert patch == {
        "metadata": {
            "labels": {"nvidia.com/cc.mode.state": mode.value, "nvidia.com/cc.ready.state": ready},
            "annotations": {
                "nvidia.com/cc.mode.message": f"8 devices verified in mode {mode}",
                "nvidia.com/cc.mode.devices": "{}",
            },
        }
    }


@pytest.mark.parametrize(
    "publication",
    [
        labels.changing(CcMode.ON, "{}"),
        labels.waiting(CcMode.ON, "in use", "{}"),
        labels.nothing_there(),
        labels.failed("a reason"),
    ],
)
def test_whatever_is_not_verified_empties_the_ready_label_and_never_says_false(publication: Publication) -> None:
    for ready in ("true", "false"):
        patch = publication.patch(NodeView({labels.READY: ready, labels.STATE: "on"}, {}))
        assert patch is not None
        assert json.dumps(patch).count('"nvidia.com/cc.ready.state": ""') == 1


@pytest.mark.parametrize(
    "publication",
    [labels.changing(CcMode.ON, "{}"), labels.waiting(CcMode.ON, "in use", "{}"), labels.nothing_there()],
)
def test_the_last_verified_mode_stays_published_until_there_is_another(publication: Publication) -> None:
    assert labels.STATE not in json.dumps(publication.patch(NodeView({labels.STATE: "off"}, {})))


def test_a_failure_says_so_and_why() -> None:
    assert labels.failed("0000:1b:00.0: gone").patch(BARE) == {
        "metadata": {
            "labels": {labels.STATE: "failed", labels.READY: ""},
            "annotations": {labels.MESSAGE: "0000:1b:00.0: gone"},
        }
    }


def test_only_what_differs_is_patched_and_nothing_if_all_is_said_already() -> None:
    said = labels.succeeded(CcMode.ON, "{}", 2)
    view = NodeView(
        {labels.STATE: "on", labels.READY: "", "other": "x"},
        {labels.MESSAGE: said.message, labels.DEVICES: "{}", "other": "x"},
    )
    assert said.patch(view) == {"metadata": {"labels": {labels.READY: "true"}}}
    assert said.patch(NodeView({**view.labels, labels.READY: "true"}, view.annotations)) is None


# --- the devices annotation


def written(*observations: Observation, known: dict[PciAddress, Verified] | None = None) -> dict[str, dict[str, str]]:
    text = labels.format_devices(observations, known or {}, boot_id="boot-2", now="12:00")
    entries = json.loads(text)
    assert isinstance(entries, dict)
    return entries


def test_what_is_written_is_read_back() -> None:
    text = labels.format_devices([seen(FIRST, 0b01), seen(SECOND, 0b11)], {}, boot_id="boot-1", now="11:00")
    assert labels.parse_verified(text) == {
        FIRST: Verified(CcMode.ON, "11:00", "boot-1"),
        SECOND: Verified(CcMode.DEVTOOLS, "11:00", "boot-1"),
    }


def test_equal_devices_make_equal_text_whatever_their_order() -> None:
    one, other = seen(FIRST, 0b00), seen(SECOND, 0b01)
    assert labels.format_devices([one, other], {}, boot_id="b", now="t") == labels.format_devices(
        [other, one], {}, boot_id="b", now="t"
    )


def test_an_entry_that_still_holds_keeps_its_time() -> None:
    known = {FIRST: Verified(CcMode.ON, "11:00", "boot-2"), SECOND: Verified(CcMode.OFF, "11:00", "boot-2")}
    entries = written(seen(FIRST, 0b01), seen(SECOND, 0b01), known=known)
    assert {address: entry["time"] for address, entry in entries.items()} == {str(FIRST): "11:00", str(SECOND): "12:00"}


def test_an_entry_of_an_earlier_boot_is_renewed() -> None:
    assert written(seen(FIRST, 0b01), known={FIRST: Verified(CcMode.ON, "11:00", "boot-1")}) == {
        str(FIRST): {"boot_id": "boot-2", "mode": "on", "time": "12:00"}
    }


def test_a_device_of_unknown_or_invalid_mode_is_told_without_one_and_why() -> None:
    entries = written(seen(FIRST, None), seen(SECOND, 0b10))
    assert {address: entry["mode"] for address, entry in entries.items()} == {str(FIRST): "", str(SECOND): ""}
    assert entries[str(SECOND)]["reason"].startswith("it is in invalid (CC mode bits 0b10")
    assert labels.parse_verified(json.dumps(entries)) == {}


def test_field_41_a_device_that_its_next_reset_would_change_is_verified_in_no_mode() -> None:
    entries = written(seen(FIRST, 0b00, staged=0b01), seen(SECOND, 0b01))
    assert entries[str(FIRST)]["mode"] == ""
    assert entries[str(FIRST)]["reason"] == "it is in off, and on is staged"
    assert labels.parse_verified(json.dumps(entries)).keys() == {SECOND}


def test_the_devices_of_this_boot_are_remembered_although_they_are_in_no_mode() -> None:
    text = labels.format_devices([seen(FIRST, 0b01)], {}, boot_id="b", now="t", without_mode={SECOND: "it is changing"})
    assert labels.devices_of_this_boot(text, "b") == {FIRST, SECOND}
    assert labels.devices_of_this_boot(text, "another") == frozenset()
    assert labels.devices_of_this_boot("[1]", "b") == frozenset()


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "{",
        "null",
        "[]",
        "5",
        '{"0000:1b:00.0": 5}',
        '{"0000:1b:00.0": {}}',
        '{"0000:1b:00.0": {"mode": "ON", "time": "t", "boot_id": "b"}}',
        '{"0000:1b:00.0": {"mode": ["on"], "time": "t", "boot_id": "b"}}',
        '{"1b:00.0": {"mode": "on", "time": "t", "boot_id": "b"}}',
        '{"0000:1b:00.0": {"mode": "on", "time": "t"}}',
    ],
)
def test_an_annotation_that_makes_no_sense_counts_as_not_there(text: str | None) -> None:
    assert labels.parse_verified(text) == {}


def test_one_bad_entry_does_not_spoil_the_others() -> None:
    good = {"mode": "on", "time": "t", "boot_id": "b"}
    text = json.dumps({"nonsense": good, str(SECOND): good, str(FIRST): {**good, "mode": "yes"}})
    assert labels.parse_verified(text) == {SECOND: Verified(CcMode.ON, "t", "b")}
