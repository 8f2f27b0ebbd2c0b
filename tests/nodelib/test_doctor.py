"""What every `doctor` shares: the report, the exit code, and readings of what a kernel says."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodelib.doctor import (
    Check,
    Outcome,
    check_command_line,
    check_group_types,
    check_interrupts,
    check_iommu,
    check_noiommu_mode,
    check_vfio_modules,
    exit_code,
    failed,
    iommu_kinds,
    kernel_parameters,
    legible,
    off_switches,
    passed,
    remaps_interrupts,
    report,
    warned,
)
from nodelib.output import render
from tests.nodelib.samples import PROPERTY

GOOD = passed("groups", "67 on the node")
DOUBTFUL = warned("modules", "vfio unknown", "mount /lib/modules")
BAD = failed("iommu", "off", "switch it on")
NAMES = ("vfio", "vfio_pci", "vfio_iommu_type1", "iommufd")


def modules(*states: str) -> dict[str, str]:
    """The states of `vfio`, `vfio_pci` and the two back ends."""
    return dict(zip(NAMES, states, strict=True))


ALL_LOADED = modules("loaded", "loaded", "loaded", "absent")
LOADABLE = modules("loadable", "loadable", "loadable", "absent")


@pytest.fixture(autouse=True)
def in_a_usual_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


# --- report


@pytest.mark.parametrize(
    ("checks", "code"),
    [((), 0), ((GOOD,), 0), ((GOOD, DOUBTFUL), 0), ((BAD,), 1), ((GOOD, DOUBTFUL, BAD, GOOD), 1)],
)
def test_only_a_failed_check_makes_the_exit_code_1(checks: tuple[Check, ...], code: int) -> None:
    assert exit_code(checks) == code


def test_the_screen_shows_each_check_in_order_then_what_to_do_failures_first() -> None:
    assert render(report((GOOD, DOUBTFUL, BAD)), "table").splitlines() == [
        "RESULT  CHECK    FOUND",
        "pass    groups   67 on the node",
        "warn    modules  vfio unknown",
        "fail    iommu    off",
        "",
        "this node cannot work yet: 3 checks, 1 failed, 1 warning",
        "fail iommu: off; switch it on",
        "warn modules: vfio unknown; mount /lib/modules",
    ]


def test_a_node_without_failures_is_said_to_work() -> None:
    assert "this node can work: 1 check, none failed, 0 warnings" in render(report((GOOD,)), "table")
    assert "this node can work: 2 checks, none failed, 1 warning\n" in render(report((GOOD, DOUBTFUL)), "table")


def test_a_report_without_checks_says_so() -> None:
    assert render(report(()), "table").startswith("nothing was checked\n")


def test_programs_get_each_check_whole() -> None:
    long = failed("devices", ", ".join(f"0000:{bus:02x}:00.0" for bus in range(64)), "mend them")
    assert json.loads(render(report((GOOD, long)), "json")) == [
        {"check": "groups", "result": "pass", "found": "67 on the node", "remedy": ""},
        {"check": "devices", "result": "fail", "found": long.text, "remedy": "mend them"},
    ]
    assert max(map(len, render(report((GOOD, long)), "table").splitlines())) <= 80


# --- readings


@pytest.mark.parametrize(
    ("command_line", "parameters"),
    [
        ("", ()),
        ("quiet intel_iommu=on,sm_on", (("quiet", ""), ("intel_iommu", "on,sm_on"))),
        ("vfio-pci.ids=10de:2330", (("vfio_pci.ids", "10de:2330"),)),
        ('dyndbg="file a.c +p; intel_iommu=off" ro', (("dyndbg", "file a.c +p; intel_iommu=off"), ("ro", ""))),
        ("ro -- iommu=off", (("ro", ""),)),
        ('a="b c', (("a", "b c"),)),
    ],
)
def test_a_command_line_is_divided_as_the_kernel_divides_it(
    command_line: str, parameters: tuple[tuple[str, str], ...]
) -> None:
    assert kernel_parameters(command_line) == parameters


@pytest.mark.parametrize(
    ("words", "off"),
    [
        ("intel_iommu=on iommu=pt", ()),
        ("intel_iommu=off", ("intel_iommu=off",)),
        ("amd_iommu=fullflush,off iommu=off", ("amd_iommu=fullflush,off", "iommu=off")),
        ("nointel_iommu=off iommu=office", ()),
    ],
)
def test_what_switches_an_iommu_off_is_found(words: str, off: tuple[str, ...]) -> None:
    assert off_switches(kernel_parameters(words)) == off


@pytest.mark.parametrize(
    ("names", "kinds"),
    [
        (["dmar0", "dmar1"], ("Intel VT-d",)),
        (["ivhd0"], ("AMD-Vi",)),
        (["smmu3.0x0000000050000000"], ("Arm SMMUv3",)),
        (["smmu.0x1"], ("Arm SMMU",)),
        (["virtio3"], ("virtio",)),
        (["strange\x1b[2J", "dmar0"], ("Intel VT-d", "strange?[2J")),
    ],
)
def test_an_iommu_is_known_by_its_name(names: list[str], kinds: tuple[str, ...]) -> None:
    assert iommu_kinds(names) == kinds


@pytest.mark.parametrize(
    ("chips", "is_remapped"),
    [
        (["DMAR-MSI", "PCI-MSI-0000:00:01.0", "IR-PCI-MSIX-0000:3b:00.0"], True),
        (["IR-IO-APIC"], True),
        (["ITS-PCI-MSIX-0000:01:00.0"], True),
        (["IO-APIC", "", "DMAR-MSI"], False),
        (["PCI-MSI-edge"], False),
        (["GICv3", "FIR-chip", "XT-PIC"], None),
        ([], None),
    ],
)
def test_remapping_shows_in_the_names_of_interrupt_chips(chips: list[str], is_remapped: bool | None) -> None:
    assert remaps_interrupts(chips) is is_remapped


@PROPERTY
@given(st.text(), st.integers(min_value=2, max_value=100))
def test_nothing_that_a_file_holds_reaches_the_terminal_raw(text: str, limit: int) -> None:
    shown = legible(text, limit)
    assert len(shown) <= limit
    assert shown == "" or (shown.isascii() and shown.isprintable())


# --- IOMMU


@pytest.mark.parametrize(
    ("words", "cpu", "remedy"),
    [
        ("", "vendor_id\t: GenuineIntel", "switch VT-d on in the firmware and boot with intel_iommu=on"),
        ("", "vendor_id\t: AuthenticAMD", "switch the IOMMU (AMD-Vi) on in the firmware and reboot"),
        ("", "CPU implementer : 0x41", "switch the IOMMU on in the firmware and reboot"),
        ("", "vendor_id : GenuineIntel\nflags : fpu hypervisor", "this is a virtual machine"),
        ("intel_iommu=off", "vendor_id : GenuineIntel", "take intel_iommu=off out of the kernel's command line"),
    ],
)
def test_the_remedy_for_a_missing_iommu_fits_the_machine(words: str, cpu: str, remedy: str) -> None:
    check = check_iommu((), kernel_parameters(words), cpu, has_groups=False)
    assert check.outcome is Outcome.FAIL
    assert check.remedy.startswith(remedy)


def test_an_iommu_without_a_name_is_a_warning_where_there_are_groups() -> None:
    assert check_iommu((), (), "", has_groups=True).outcome is Outcome.WARN
    assert check_iommu(("dmar0", "dmar1"), (), "", has_groups=True) == passed("iommu", "Intel VT-d is on, 2 units")


def test_a_command_line_that_forbids_what_is_needed_fails() -> None:
    def outcome(words: str, has: dict[str, str] = ALL_LOADED, *, has_iommu: bool = True) -> Outcome:
        return check_command_line(kernel_parameters(words), has, has_iommu=has_iommu).outcome

    assert outcome("ro quiet") is Outcome.PASS
    assert outcome("iommu=off", has_iommu=False) is Outcome.FAIL
    assert outcome("amd_iommu=off") is Outcome.PASS  # of another vendor's: this one is on
    assert outcome("module_blacklist=nouveau,vfio_pci", LOADABLE) is Outcome.FAIL
    assert outcome("module_blacklist=nouveau,vfio_pci_core", LOADABLE) is Outcome.PASS  # not among what is needed
    assert outcome("module_blacklist=nouveau,vfio_pci") is Outcome.PASS  # built in or loaded all the same
    assert check_command_line(None, ALL_LOADED, has_iommu=True).outcome is Outcome.WARN


def test_a_command_line_is_shown_as_far_as_it_matters() -> None:
    words = kernel_parameters("BOOT_IMAGE=/x intel_iommu=on vfio-pci.ids=10de:2330 root=/dev/sda1")
    assert check_command_line(words, ALL_LOADED, has_iommu=True).text == "intel_iommu=on vfio_pci.ids=10de:2330"


@pytest.mark.parametrize(
    ("iommu", "types", "outcome"),
    [
        ("dmar0", ["DMA", "DMA-FQ", None], Outcome.PASS),
        ("dmar0", ["identity"], Outcome.PASS),
        ("ivhd0", ["DMA-FQ", "identity"], Outcome.WARN),  # Linux, drivers/iommu/amd/init.c, iommu_snp_enable
        ("dmar0", ["DMA", "blocked"], Outcome.WARN),
        ("dmar0", ["\0\x1b"], Outcome.WARN),
        ("dmar0", [], Outcome.PASS),
    ],
)
def test_a_passthrough_default_is_named_where_it_costs_sev_snp(
    iommu: str, types: list[str | None], outcome: Outcome
) -> None:
    assert check_group_types([iommu], dict(enumerate(types))).outcome is outcome


def test_a_group_whose_type_is_not_shown_is_unknown() -> None:
    assert check_group_types(["dmar0"], {3: None}) == passed("group-type", "unknown on this kernel")


@pytest.mark.parametrize(
    ("chips", "are_unsafe_allowed", "outcome"),
    [
        (["IR-IO-APIC"], False, Outcome.PASS),
        (["IR-IO-APIC"], True, Outcome.WARN),
        (["IO-APIC"], True, Outcome.WARN),
        (["IO-APIC"], False, Outcome.FAIL),
        ([], False, Outcome.WARN),
    ],
)
def test_interrupts_that_are_not_remapped_fail_unless_allowed(
    chips: list[str], are_unsafe_allowed: bool, outcome: Outcome
) -> None:
    assert check_interrupts(chips, are_unsafe_allowed=are_unsafe_allowed).outcome is outcome


def test_no_iommu_mode_fails_where_nothing_isolates() -> None:
    assert check_noiommu_mode(is_on=False, has_groups=False).outcome is Outcome.PASS
    assert check_noiommu_mode(is_on=True, has_groups=True).outcome is Outcome.WARN
    assert check_noiommu_mode(is_on=True, has_groups=False).outcome is Outcome.FAIL


# --- modules


@pytest.mark.parametrize(
    ("states", "outcome", "text"),
    [
        (ALL_LOADED, Outcome.PASS, "vfio loaded, vfio_pci loaded, vfio_iommu_type1 loaded"),
        (LOADABLE, Outcome.PASS, "vfio loadable, vfio_pci loadable, vfio_iommu_type1 loadable"),
        (
            modules("built in", "loadable", "loadable", "built in"),
            Outcome.PASS,
            "vfio built in, vfio_pci loadable, iommufd built in",
        ),
        (
            modules("loaded", "loaded", "loadable", "absent"),
            Outcome.WARN,
            "vfio loaded, vfio_pci loaded, vfio_iommu_type1 loadable",
        ),
        (modules(*["unknown"] * 4), Outcome.WARN, "vfio unknown, vfio_pci unknown, vfio_iommu_type1 unknown"),
        (modules(*["absent"] * 4), Outcome.FAIL, "vfio absent, vfio_pci absent, vfio_iommu_type1 absent"),
        (
            modules("loadable", "absent", "unknown", "loadable"),
            Outcome.FAIL,
            "vfio loadable, vfio_pci absent, iommufd loadable",
        ),
    ],
)
def test_vfio_modules_may_be_loaded_built_in_or_loadable(states: dict[str, str], outcome: Outcome, text: str) -> None:
    check = check_vfio_modules(states)
    assert (check.outcome, check.text) == (outcome, text)
    assert bool(check.remedy) is (outcome is not Outcome.PASS)


def test_a_back_end_that_nothing_loads_is_named_with_the_command() -> None:
    check = check_vfio_modules(modules("built in", "loaded", "loadable", "absent"))
    assert (check.outcome, check.remedy) == (Outcome.WARN, "run: modprobe vfio_iommu_type1")
