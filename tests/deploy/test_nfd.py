"""The rules for Node Feature Discovery judge every device id as nodelib does, and every CPU as it says itself."""

import pytest

from nodelib import pciids
from nodelib.nvidia import CHIP_RANGES, CLASS_3D, CLASS_NVSWITCH, CLASS_VGA, VENDOR_NVIDIA, ChipRange, chip_of
from nodelib.pci import PciAddress, PciDevice
from tests.deploy.manifests import deployed, of_kind
from tests.deploy.nfd import Element, Features, labels_and_resources, rule_matches
from tests.deploy.render import Object

CAPABLE = "nvidia.com/cc.capable"
SNP, TDX = "amd.feature.node.kubernetes.io/snp", "intel.feature.node.kubernetes.io/tdx"
# Attributes are absent where the feature is off.
SNP_ON = {"sev.enabled": "true", "sev.es.enabled": "true", "sev.snp.enabled": "true"}
SNP_KEYS = {"sev.asids": "410", "sev.encrypted_state_ids": "99"}
TDX_ON = {"tdx.enabled": "true", "tdx.total_keys": "31"}
CLASS_AUDIO = 0x040300


@pytest.fixture(scope="module")
def rules() -> list[Object]:
    found: list[Object] = of_kind(deployed(), "NodeFeatureRule")["cgpu-agents"]["spec"]["rules"]
    return found


def pci(device: int, pci_class: int = CLASS_3D, vendor: int = VENDOR_NVIDIA) -> Element:
    """A PCI function as Node Feature Discovery names its attributes."""
    return {"vendor": f"{vendor:04x}", "device": f"{device:04x}", "class": f"{pci_class >> 8:04x}"}


def node(*functions: Element, cpu: dict[str, str] | None = None) -> Features:
    return {"pci.device": functions, "cpu.security": [cpu or {}]}


def is_capable(rules: list[Object], *functions: Element, cpu: dict[str, str] | None = None) -> bool:
    labels, _ = labels_and_resources(rules, node(*functions, cpu=SNP_ON if cpu is None else cpu))
    return labels.get(CAPABLE) == "true"


def is_known_to_nodelib(number: int) -> bool:
    """Whether a GPU of this id is one of a chip that nodelib knows, by its id or by its name in the PCI id database."""
    name = pciids.device_name(number)
    if name and any(word in name for word in ("Audio", "NVSwitch")):
        return False  # it begins with a chip's name too, and is of another class
    device = PciDevice(PciAddress.parse("0000:01:00.0"), VENDOR_NVIDIA, number, CLASS_3D, name=name)
    return chip_of(device) is not None


def test_every_device_id_is_judged_as_nodelib_judges_it(rules: list[Object]) -> None:
    (rule,) = (rule for rule in rules if CAPABLE in rule.get("labels", {}))
    known = {number for number in range(0x10000) if is_known_to_nodelib(number)}
    ruled = {number for number in range(0x10000) if rule_matches(rule, node(pci(number), cpu=SNP_ON))}
    missing, too_many = sorted(known - ruled), sorted(ruled - known)
    assert not missing, f"deploy/base/nfd/rules.yaml misses {[f'{number:04x}' for number in missing][:8]} ..."
    assert not too_many, f"deploy/base/nfd/rules.yaml has {[f'{number:04x}' for number in too_many][:8]} ... too many"
    assert known > {number for chips in CHIP_RANGES for number in range(chips.first, chips.last + 1)}


@pytest.mark.parametrize("pci_class", [CLASS_3D, CLASS_VGA])
@pytest.mark.parametrize("chips", CHIP_RANGES, ids=lambda chips: chips.chip.name)
def test_a_gpu_of_each_chip_makes_the_node_capable(rules: list[Object], chips: ChipRange, pci_class: int) -> None:
    assert is_capable(rules, pci(chips.first, pci_class))
    assert is_capable(rules, pci(chips.last, pci_class))


@pytest.mark.parametrize(
    ("why_not", "function"),
    [
        ("a GPU's audio function", pci(0x2330, CLASS_AUDIO)),
        ("an NVSwitch", pci(0x22A3, CLASS_NVSWITCH)),
        ("an NVSwitch with a GPU's id", pci(0x2330, CLASS_NVSWITCH)),
        ("a GPU before Hopper (L40S)", pci(0x26B9)),
        ("a GPU before Hopper (A100)", pci(0x20B2)),
        ("another vendor's device of that number", pci(0x2330, vendor=0x8086)),
        ("nothing", {}),
    ],
)
def test_what_is_no_confidential_gpu_makes_no_node_capable(
    rules: list[Object], why_not: str, function: Element
) -> None:
    assert not is_capable(rules, function), why_not


def test_vendor_class_and_id_must_be_those_of_one_device(rules: list[Object]) -> None:
    """An Ada GPU with a Hopper id on another card's network function is no Hopper GPU."""
    assert not is_capable(rules, pci(0x26B9), pci(0x2330, 0x020000, vendor=0x15B3))


def test_virtual_functions_change_nothing(rules: list[Object]) -> None:
    """On a host they come with their physical function, which decides."""
    hopper, ada = pci(0x2330), pci(0x26B9)
    assert is_capable(rules, {**hopper, "sriov_totalvfs": "16"}, *[hopper] * 16)
    assert not is_capable(rules, {**ada, "sriov_totalvfs": "32"}, *[ada] * 32)


@pytest.mark.parametrize(
    "cpu",
    [
        {},
        {"sev.enabled": "true", "sev.es.enabled": "true"},
        {"sev.snp.enabled": "false"},
        {"tdx.enabled": "false"},
        {"tdx.protected": "true"},
    ],
    ids=["none", "SEV-ES alone", "SNP off", "TDX off", "a TDX guest"],
)
def test_a_gpu_in_a_host_that_protects_no_vm_is_not_capable(rules: list[Object], cpu: dict[str, str]) -> None:
    assert labels_and_resources(rules, node(pci(0x2330), cpu=cpu)) == ({}, {})


def test_a_host_is_told_apart_by_its_cpu_and_offers_its_keys(rules: list[Object]) -> None:
    amd = labels_and_resources(rules, node(cpu=SNP_ON | SNP_KEYS))
    intel = labels_and_resources(rules, node(cpu=TDX_ON))
    assert amd == ({SNP: "true"}, {"sev-snp.amd.com/esids": "99"})
    assert intel == ({TDX: "true"}, {"tdx.intel.com/keys": "31"})


def test_a_host_that_does_not_tell_its_keys_still_gets_its_label(rules: list[Object]) -> None:
    assert labels_and_resources(rules, node(cpu=SNP_ON)) == ({SNP: "true"}, {})


def test_no_rule_writes_what_others_own(rules: list[Object]) -> None:
    """Node Feature Discovery would put a paused operand's label back, or a mode that nobody verified."""
    written = {key for rule in rules for key in rule.get("labels", {})}
    assert written == {CAPABLE, SNP, TDX}
