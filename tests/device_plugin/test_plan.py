"""Which steps follow from which observation; the second plan, after the first was carried out, is empty."""

from dataclasses import replace

from device_plugin.inventory import by_resource
from device_plugin.plan import (
    KubeletId,
    ObservedServer,
    Publish,
    Register,
    Registration,
    StartServer,
    StopServer,
    plan,
)
from nodelib.names import ResourceName
from nodelib.vfio import Naming, assignable_devices
from tests.nodelib.samples import gpu, look, nvswitch

PGPU = ResourceName.parse("nvidia.com/pgpu")
NVSWITCH = ResourceName.parse("nvidia.com/nvswitch")
DESIRED = by_resource(assignable_devices(look(gpu("3b", 65), gpu("5e", 66), nvswitch("83", 70)), Naming()))
KUBELET = KubeletId(1, 2, 3)
RESTARTED = KubeletId(1, 2, 4)


def server(resource: ResourceName, registration: Registration = Registration.STREAMING) -> ObservedServer:
    kubelet = None if registration is Registration.NONE else KUBELET
    return ObservedServer(resource, DESIRED[resource], has_socket=True, registration=registration, kubelet=kubelet)


def test_each_resource_is_served_and_registered() -> None:
    assert plan(DESIRED, [], KUBELET) == (
        StartServer(NVSWITCH, DESIRED[NVSWITCH]),
        Register(NVSWITCH, KUBELET),
        StartServer(PGPU, DESIRED[PGPU]),
        Register(PGPU, KUBELET),
    )


def test_nothing_is_left_to_do_when_the_kubelet_listens_to_every_resource() -> None:
    assert plan(DESIRED, [server(PGPU), server(NVSWITCH)], KUBELET) == ()


def test_nothing_is_done_twice_while_the_kubelet_takes_its_time() -> None:
    for registration in (Registration.UNDER_WAY, Registration.ACCEPTED):
        assert plan({PGPU: DESIRED[PGPU]}, [server(PGPU, registration)], KUBELET) == ()


def test_without_a_kubelet_all_is_made_ready_for_one() -> None:
    assert plan({PGPU: DESIRED[PGPU]}, [], None) == (StartServer(PGPU, DESIRED[PGPU]),)
    assert plan({PGPU: DESIRED[PGPU]}, [server(PGPU, Registration.NONE)], None) == ()


def test_a_kubelet_that_lost_us_is_asked_again() -> None:
    assert plan({PGPU: DESIRED[PGPU]}, [server(PGPU, Registration.LOST)], KUBELET) == (Register(PGPU, KUBELET),)


def test_after_a_restart_of_the_kubelet_the_old_stream_is_ended_before_registering_again() -> None:
    assert plan({PGPU: DESIRED[PGPU]}, [server(PGPU)], RESTARTED) == (
        StopServer(PGPU, "the kubelet was restarted"),
        StartServer(PGPU, DESIRED[PGPU]),
        Register(PGPU, RESTARTED),
    )


def test_a_lost_socket_is_replaced() -> None:
    lost = replace(server(PGPU), has_socket=False)
    assert plan({PGPU: DESIRED[PGPU]}, [lost], None) == (
        StopServer(PGPU, "its socket is gone"),
        StartServer(PGPU, DESIRED[PGPU]),
    )


def test_changed_devices_are_published_without_another_registration() -> None:
    changed = DESIRED[PGPU][:1]
    assert plan({PGPU: changed}, [server(PGPU)], KUBELET) == (Publish(PGPU, changed),)


def test_a_resource_without_devices_is_emptied_and_then_no_longer_served() -> None:
    assert plan({}, [server(PGPU)], KUBELET) == (
        Publish(PGPU, ()),
        StopServer(PGPU, "no device has this name any more"),
    )


def test_a_resource_whose_place_is_taken_waits_and_holds_nothing_up() -> None:
    steps = plan(DESIRED, [], KUBELET, blocked={PGPU})
    assert {step.resource for step in steps} == {NVSWITCH}


def test_no_device_is_a_state_in_which_there_is_nothing_to_do() -> None:
    assert plan({}, [], KUBELET) == ()


def test_a_step_says_in_one_line_what_it_does() -> None:
    steps = plan({PGPU: DESIRED[PGPU]}, [server(PGPU)], RESTARTED)
    assert [str(step) for step in steps] == [
        "stop serving nvidia.com/pgpu: the kubelet was restarted",
        "serve nvidia.com/pgpu: 2 devices, 2 healthy",
        "register nvidia.com/pgpu with the kubelet",
    ]
