"""What is said when health changes: each device in the log, each reason in an Event."""

from device_plugin.changes import events_of, health_changes
from device_plugin.event_reasons import HEALTHY, UNHEALTHY
from device_plugin.inventory import Devices
from nodelib.pci import ConfigState
from nodelib.vfio import Naming, assignable_devices
from tests.nodelib.samples import at, gpu, look


def node(*gone: str) -> Devices:
    """Three GPUs, of which some do not answer any more."""
    found = look(gpu("3b", 65), gpu("5e", 66), gpu("83", 67), config={at(where): ConfigState.GONE for where in gone})
    return assignable_devices(found, Naming())


def test_a_change_of_health_is_said_once_with_its_reason_and_both_ways() -> None:
    well = assignable_devices(look(gpu("3b", 65)), Naming())
    ill = assignable_devices(look(gpu("3b", 65), config={at("3b"): ConfigState.GONE}), Naming())
    (change,) = health_changes(well, ill)
    assert str(change) == f"nvidia.com/pgpu=65 (0000:3b:00.0) is unhealthy: {ill[0].problems[0]}"
    assert health_changes(ill, ill) == ()
    assert [str(change) for change in health_changes(ill, well)] == [
        "nvidia.com/pgpu=65 (0000:3b:00.0) is healthy again"
    ]
    assert health_changes((), well) == ()
    assert len(health_changes((), ill)) == 1


def test_nothing_new_is_no_event() -> None:
    assert events_of(health_changes(node("3b"), node("3b"))) == ()
    assert events_of(health_changes((), node())) == ()


def test_field_38_an_event_names_the_device_and_the_reason() -> None:
    ((reason, text),) = events_of(health_changes(node(), node("5e")))
    assert reason is UNHEALTHY
    assert text.startswith("nvidia.com/pgpu=66 (0000:5e:00.0): unhealthy: 0000:5e:00.0 does not answer any more")
    assert "Xid 79" in text, "what to do about it"
    assert events_of(health_changes(node("5e"), node())) == (
        (HEALTHY, "nvidia.com/pgpu=66 (0000:5e:00.0): healthy again"),
    )


def test_devices_with_one_reason_are_one_event() -> None:
    ((_, text),) = events_of(health_changes(node(), node("3b", "5e", "83")))
    assert text.startswith("nvidia.com/pgpu=65 (0000:3b:00.0) and 2 more: unhealthy: ")


def test_what_became_ill_and_what_became_well_are_two_events() -> None:
    told = events_of(health_changes(node("3b"), node("5e")))
    assert [reason for reason, _ in told] == [UNHEALTHY, HEALTHY]
