"""Which VFIO driver a device belongs to: the best match among the kernel's module aliases."""

import pytest

from tests.nodelib.samples import gpu
from vfio_manager.modalias import DriverChoice, VfioAlias, best_module, parse_aliases

B200 = "pci:v000010DEd00002901sv000010DEsd00001999bc03sc02i00"
GB200 = "pci:v000010DEd00002941sv000010DEsd00002046bc03sc02i00"
ANY = "alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci"
GRACE = "alias vfio_pci:v000010DEd00002941sv*sd*bc*sc*i* nvgrace_gpu_vfio_pci"


def choose(modalias: str, *lines: str) -> str | None:
    return best_module(modalias, parse_aliases(lines))


def test_a_variant_driver_that_lists_the_device_wins_over_the_one_for_all() -> None:
    # facts/field-problems.md, row 32
    for lines in ((ANY, GRACE), (GRACE, ANY)):
        assert choose(GB200, *lines) == "nvgrace_gpu_vfio_pci"
        assert choose(B200, *lines) == "vfio_pci"


def test_of_several_that_match_the_one_with_the_fewest_wildcards_wins() -> None:
    by_vendor = "alias vfio_pci:v000010DEd*sv*sd*bc*sc*i* a_vendor"
    by_class = "alias vfio_pci:v000010DEd*sv*sd*bc03sc02i* b_class"
    by_board = "alias vfio_pci:v000010DEd00002941sv000010DEsd00002046bc03sc02i* c_board"
    assert choose(GB200, ANY, by_vendor, GRACE, by_class, by_board) == "c_board"
    assert choose(GB200, by_class, GRACE, by_vendor) == "b_class"
    assert choose(B200, by_board, GRACE, by_vendor, ANY) == "a_vendor"


def test_a_tie_is_decided_by_name_and_not_by_the_order_of_the_file() -> None:
    first = GRACE.replace("nvgrace_gpu_vfio_pci", "a_vfio_pci")
    assert choose(GB200, GRACE, first) == choose(GB200, first, GRACE) == "a_vfio_pci"


def test_an_alias_for_another_board_or_class_does_not_match() -> None:
    other_board = "alias vfio_pci:v000010DEd00002941sv000010DEsd00002047bc*sc*i* other_board"
    audio = "alias vfio_pci:v000010DEd*sv*sd*bc04sc*i* audio"
    assert choose(GB200, other_board, audio) is None


@pytest.mark.parametrize(
    "line",
    [
        "",
        "# Aliases extracted from modules themselves.",
        "alias vfio_pci:",
        "alias vfio_pci: nvgrace_gpu_vfio_pci",
        "alias vfio_pci:v*d*sv*sd*bc*sc*i*",
        "alias vfio_pci:v*d* short",
        "alias vfio_pci:v\ufffd[d]*sv*sd*bc*sc*i* bracket",
        "alias pci:v000010DEd00002941sv*sd*bc*sc*i* nvidia",
        "alias vfio_ap:v*d*sv*sd*bc*sc*i* another_bus",
        "options vfio_pci ids=10de:2941",
    ],
)
def test_a_line_that_is_no_alias_of_a_vfio_driver_is_passed_over(line: str) -> None:
    assert choose(GB200, line) is None
    assert choose(GB200, line, GRACE, line) == "nvgrace_gpu_vfio_pci"


def test_a_line_is_taken_apart_into_its_fields() -> None:
    assert parse_aliases([f"{GRACE}\n"]) == (
        VfioAlias(("000010DE", "00002941", "*", "*", "*", "*", "*"), "nvgrace_gpu_vfio_pci"),
    )
    assert parse_aliases([GRACE])[0].wildcards == 5


@pytest.mark.parametrize("modalias", ["", "pci:", "pci:v000010DE", "usb:v1D6Bp0002d0602", "\ufffd"])
def test_a_device_whose_modalias_makes_no_sense_gets_the_driver_for_all(modalias: str) -> None:
    choice = DriverChoice(None, parse_aliases([ANY, GRACE]), frozenset({"vfio-pci"}))
    assert best_module(modalias, choice.aliases) is None
    assert choice.of(gpu("3b", 65, modalias=modalias)) == "vfio-pci"


def test_without_any_alias_every_device_gets_vfio_pci() -> None:
    assert DriverChoice(None, (), frozenset()).of(gpu("3b", 65, modalias=GB200)) == "vfio-pci"


@pytest.mark.parametrize(
    ("module", "loaded", "driver"),
    [
        # A module is spelt with underscores; how its driver is spelt only /sys/bus/pci/drivers tells.
        ("vfio_pci", {"vfio-pci"}, "vfio-pci"),
        ("vfio_pci", set(), "vfio-pci"),
        ("nvgrace_gpu_vfio_pci", {"vfio-pci", "nvgrace_gpu_vfio_pci"}, "nvgrace_gpu_vfio_pci"),
        ("pds_vfio_pci", {"vfio-pci", "pds-vfio-pci"}, "pds-vfio-pci"),
        ("pds_vfio_pci", {"vfio-pci"}, "pds_vfio_pci"),
        ("pds_vfio_pci", {"pds-vfio-pci", "pds_vfio_pci"}, "pds_vfio_pci"),
    ],
)
def test_a_driver_is_written_as_the_kernel_spells_it(module: str, loaded: set[str], driver: str) -> None:
    device = gpu("3b", 65, modalias=GB200)
    by_alias = DriverChoice(None, parse_aliases([GRACE.replace("nvgrace_gpu_vfio_pci", module)]), frozenset(loaded))
    by_flag = DriverChoice(module, (), frozenset(loaded))
    assert by_alias.of(device) == by_flag.of(device) == driver
    assert by_flag.is_loaded(driver) == (driver in loaded)


def test_the_driver_that_the_administrator_names_goes_before_any_alias() -> None:
    choice = DriverChoice("vfio-pci", parse_aliases([GRACE]), frozenset({"vfio-pci", "nvgrace_gpu_vfio_pci"}))
    assert choice.of(gpu("3b", 65, modalias=GB200)) == "vfio-pci"
