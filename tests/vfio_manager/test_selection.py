"""`--include` and `--exclude`: devices by address, PCI ids or driver."""

import pytest

from nodelib.errors import InvalidValue
from nodelib.inventory import Inventory
from nodelib.iommu import IommuGroup
from nodelib.pci import PciAddress, PciDevice
from vfio_manager.modalias import DriverChoice
from vfio_manager.plan import plan_bind
from vfio_manager.selection import targets
from vfio_manager.selector import Selector
from vfio_manager.settings import Settings

H100 = PciDevice(PciAddress(0, 0x3B, 0, 0), 0x10DE, 0x2330, 0x030200, driver="nvidia", iommu_group=65)
AUDIO = PciDevice(PciAddress(0, 0x3B, 0, 1), 0x10DE, 0x22BE, 0x040300, driver="snd_hda_intel", iommu_group=65)
H200 = PciDevice(PciAddress(0, 0x86, 0, 0), 0x10DE, 0x2335, 0x030200, driver="nouveau", iommu_group=93)
NODE = Inventory(
    devices=(H100, AUDIO, H200),
    groups=(IommuGroup(65, (H100.address, AUDIO.address)), IommuGroup(93, (H200.address,))),
    group_numbers=frozenset({65, 93}),
)


def chosen(*, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> tuple[PciDevice, ...]:
    return targets(NODE, settings(include=include, exclude=exclude))


def settings(*, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> Settings:
    return Settings(include=tuple(map(Selector.parse, include)), exclude=tuple(map(Selector.parse, exclude)))


def test_without_a_filter_every_gpu_is_chosen_with_its_slot() -> None:
    assert chosen() == (H100, AUDIO, H200)


@pytest.mark.parametrize("text", ["0000:3b:00.0", "10de:2330", "10DE:2330", "nvidia"])
def test_an_included_gpu_is_chosen_with_its_slot_and_no_other(text: str) -> None:
    assert chosen(include=(text,)) == (H100, AUDIO)


@pytest.mark.parametrize("text", ["0000:86:00.0", "10de:2335", "nouveau"])
def test_an_excluded_gpu_is_left_out(text: str) -> None:
    assert chosen(exclude=(text,)) == (H100, AUDIO)


def test_what_is_excluded_is_left_out_although_it_is_included_or_rides_along() -> None:
    assert chosen(include=("10de:2330", "10de:2335"), exclude=("10de:2335", "snd-hda-intel")) == (H100,)


def test_a_filter_that_matches_nothing_chooses_nothing() -> None:
    assert chosen(include=("10de:ffff",)) == ()


def test_an_excluded_function_that_holds_up_a_gpus_group_is_named_with_what_to_do() -> None:
    plan = plan_bind(NODE, settings(exclude=("10de:22be",)), DriverChoice(None, (), frozenset({"vfio-pci"})))
    (refusal,) = plan.refusals
    assert refusal.address == AUDIO.address
    assert "shares IOMMU group 65 with a GPU" in str(refusal)
    assert "--exclude" in refusal.problem.remedy


@pytest.mark.parametrize("text", ["", "3b:00.0", "10de:", "10de:233", "0000:3b:00", "../x", "a b", "10de:2330 "])
def test_a_selector_that_could_mean_anything_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match="selects nothing: write a full PCI address"):
        Selector.parse(text)
