"""The CDI specs that we write. DESIGN section 3; field problems 7, 9, 11, 37."""

import json

import pytest
import yaml
from hypothesis import given

from nodelib.cdi import CdiDevice, CdiSpec, specs_for
from nodelib.cdi_parse import parse_spec
from nodelib.inventory import Inventory
from nodelib.pci import ConfigState
from nodelib.vfio import Naming, VfioMode, assignable_devices
from tests.nodelib.samples import PROPERTY, at, gpu, look, nvswitch
from tests.nodelib.test_vfio_names import NAMINGS, nodes


def specs(inventory: Inventory, mode: VfioMode = VfioMode.AUTO) -> dict[str, CdiSpec]:
    return {spec.kind: spec for spec in specs_for(assignable_devices(inventory, Naming(vfio_mode=mode)))}


def test_a_spec_has_the_version_that_every_kata_reads() -> None:
    """facts/kubelet-cdi-kata-contract.md: 0.5.0 is the lowest with names that begin with a digit."""
    (spec,) = specs(look(gpu("3b", 65))).values()
    assert spec.as_document() == {
        "cdiVersion": "0.5.0",
        "kind": "nvidia.com/pgpu",
        "devices": [
            {"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/vfio/65"}]}},
            {"name": "65", "containerEdits": {"deviceNodes": [{"path": "/dev/vfio/65"}]}},
            {"name": "0000:3b:00.0", "containerEdits": {"deviceNodes": [{"path": "/dev/vfio/65"}]}},
        ],
    }


def test_the_name_that_kata_asks_for_is_the_resource_and_the_device_id() -> None:
    """Field problem 11: `<resource name>=<device id>`."""
    (spec,) = specs(look(gpu("3b", 65))).values()
    assert "nvidia.com/pgpu=65" in spec.qualified_names()


def test_each_kind_has_a_spec_of_its_own_in_order() -> None:
    found = specs_for(assignable_devices(look(nvswitch("01", 1), gpu("3b", 65)), Naming("zgpu", "aswitch")))
    assert [spec.kind for spec in found] == ["nvidia.com/aswitch", "nvidia.com/zgpu"]


def test_a_kind_without_a_device_that_can_be_resolved_has_no_spec() -> None:
    """CDI: a spec without devices is invalid."""
    assert specs(look(gpu("3b", 65, driver="nvidia"), nvswitch("01", None))) == {}


def test_a_device_that_cannot_be_resolved_is_left_out_and_one_that_only_resets_is_not() -> None:
    inventory = look(
        gpu("01", 61), gpu("02", 62, driver=None), gpu("03", 63), config={at("03"): ConfigState.HUNG}
    ).remembering(look(gpu("04", 64)))
    names = {device.name for device in specs(inventory)["nvidia.com/pgpu"].devices}
    assert {"61", "63"} <= names
    assert not names & {"62", "64"}


def test_names_are_in_counting_order_and_then_by_the_alphabet() -> None:
    inventory = look(*(gpu(f"{bus:02x}", 30 + bus, vfio_cdev=f"vfio{bus}") for bus in (1, 2, 10)))
    (spec,) = specs(inventory).values()
    assert [device.name for device in spec.devices] == [
        *("0", "1", "2", "31", "32", "40"),
        *("0000:01:00.0", "0000:02:00.0", "0000:0a:00.0", "vfio1", "vfio10", "vfio2"),
    ]


@pytest.mark.parametrize(
    ("mode", "paths"),
    [
        (VfioMode.LEGACY, ["/dev/vfio/65"]),
        (VfioMode.AUTO, ["/dev/vfio/devices/vfio3"]),
        (VfioMode.IOMMUFD, ["/dev/vfio/devices/vfio3"]),
    ],
)
def test_a_spec_lists_the_nodes_of_one_interface_and_never_the_container(mode: VfioMode, paths: list[str]) -> None:
    """Field problem 9: Kata plugs each listed node as a device of its own."""
    (spec,) = specs(look(gpu("3b", 65, vfio_cdev="vfio3")), mode).values()
    for device in spec.devices:
        assert list(device.nodes) == paths


@PROPERTY
@given(nodes(), NAMINGS)
def test_whatever_we_write_is_a_valid_spec_that_reads_back_the_same(inventory: Inventory, naming: Naming) -> None:
    for spec in specs_for(assignable_devices(inventory, naming)):
        document = spec.as_document()
        assert parse_spec(json.loads(json.dumps(document)), "ours.json") == spec
        assert parse_spec(yaml.safe_load(yaml.safe_dump(document)), "ours.yaml") == spec


@PROPERTY
@given(nodes(), NAMINGS)
def test_no_node_of_ours_is_the_container_of_either_interface(inventory: Inventory, naming: Naming) -> None:
    for spec in specs_for(assignable_devices(inventory, naming)):
        listed = {node for device in spec.devices for node in device.nodes}
        assert not listed & {"/dev/vfio/vfio", "/dev/iommu"}


def test_specs_do_not_depend_on_the_order_of_devices() -> None:
    devices = assignable_devices(look(gpu("01", 61), gpu("02", 62), nvswitch("03", 63)), Naming())
    assert specs_for(devices) == specs_for(devices[::-1])


def test_qualified_names_are_kind_and_name() -> None:
    spec = CdiSpec("nvidia.com/pgpu", (CdiDevice("65", ("/dev/vfio/65",)), CdiDevice("vfio3", ("/dev/vfio/65",))))
    assert spec.qualified_names() == ("nvidia.com/pgpu=65", "nvidia.com/pgpu=vfio3")
