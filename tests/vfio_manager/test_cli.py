"""The command line: exit codes, dry runs, and what is refused before anything is touched."""

import errno
import os
from pathlib import Path

import click
import pytest

from nodelib.cli import run_command
from nodelib.pci import PciAddress
from tests.fakes.kernel import FakeKernel
from tests.fakes.parts import CLASS_NIC, CLASS_PORT, MELLANOX, gpu, nvswitch, other
from tests.vfio_manager.builders import AUDIO, GPU, OTHER_GPU, add_other_gpu, driver_of, shown
from vfio_manager.cli import cli

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def in_a_usual_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def run(kernel: FakeKernel, *args: str) -> int:
    return run_command(cli, args, obj=kernel.node())


def flowing(text: str) -> str:
    """*text* without its line breaks."""
    return " ".join(text.split())


# --- done


def test_bind_then_unbind_say_what_is_now_true_and_end_with_0(kernel: FakeKernel, capsys: Capture) -> None:
    assert run(kernel, "bind") == 0
    assert capsys.readouterr().out == "every chosen function is on its VFIO driver\n"
    assert driver_of(kernel, GPU) == "vfio-pci"
    assert run(kernel, "unbind") == 0
    assert capsys.readouterr().out == "no chosen function is on a VFIO driver any more\n"
    assert driver_of(kernel, GPU) == "nvidia"


@pytest.mark.parametrize("arguments", [["bind", "--dry-run"], ["plan"], ["status"], ["unbind", "--dry-run"]])
def test_who_only_looks_writes_nothing(kernel: FakeKernel, arguments: list[str]) -> None:
    before = {address: shown(kernel, address) for address in (GPU, AUDIO, OTHER_GPU)}
    assert run(kernel, *arguments) == 0
    assert kernel.writes == []
    assert {address: shown(kernel, address) for address in (GPU, AUDIO, OTHER_GPU)} == before


def test_a_dry_run_prints_each_step_and_what_it_would_leave(kernel: FakeKernel, capsys: Capture) -> None:
    assert run(kernel, "bind", "--dry-run", "--protect-driver", "snd_hda_intel", "--device", str(GPU)) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[:5] == [
        f"would forbid D3cold for {GPU}",
        f"would set driver_override of {GPU} to vfio-pci",
        f"would unbind {GPU} from nvidia",
        f"would bind {GPU} to vfio-pci",
        f"would keep {GPU} awake",
    ]
    assert f"would leave {AUDIO}: it is on driver snd_hda_intel, which --protect-driver keeps" in flowing(said)
    assert run(kernel, "unbind", "--dry-run") == 0
    assert capsys.readouterr().out == "nothing to do\n"


def test_the_dry_run_is_the_environments_to_ask_for_too(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("DRY_RUN", "true")
    monkeypatch.setenv("DEVICES", f"{OTHER_GPU} {AUDIO}")
    monkeypatch.setenv("PROTECT_DRIVERS", "snd_hda_intel nvidia")
    assert run(kernel, "bind") == 0
    said = flowing(capsys.readouterr().out)
    assert [said.count(f"would leave {address}") for address in (GPU, AUDIO, OTHER_GPU)] == [1, 1, 1]
    assert kernel.writes == []


def test_every_flag_has_an_environment_variable() -> None:
    for command in cli.commands.values():
        for parameter in command.params:
            assert not isinstance(parameter, click.Option) or parameter.envvar, f"{command.name} {parameter.opts}"


# --- failed


def test_a_bind_of_which_nothing_came_does_not_end_with_0(kernel: FakeKernel, capsys: Capture) -> None:
    # facts/field-problems.md, row 22
    kernel.faults.fail[(GPU, "bind")] = errno.EBUSY
    assert run(kernel, "bind") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    error = captured.err[captured.err.index("error: ") :]
    assert error.startswith(f"error: not everything was done:\n{GPU}: the kernel refused the write to ")
    assert "Traceback" not in captured.err
    assert driver_of(kernel, OTHER_GPU) == "vfio-pci"


def test_the_deadline_of_an_unbind_is_the_users_to_set(bare_kernel: FakeKernel, capsys: Capture) -> None:
    # facts/field-problems.md, row 15
    add_other_gpu(bare_kernel)
    with bare_kernel.in_use(OTHER_GPU):
        assert run(bare_kernel, "bind", "--unbind-timeout", "0.3") == 1
    assert "nvidia/unbind within 0.3 s" in capsys.readouterr().err


def test_an_unbind_of_a_device_that_a_vm_has_open_ends_with_1_and_names_it(kernel: FakeKernel, capsys: Capture) -> None:
    assert run(kernel, "bind") == 0
    with kernel.start_vm(OTHER_GPU):
        assert run(kernel, "unbind") == 1
    said = capsys.readouterr().err
    assert f"\n{OTHER_GPU}: a virtual machine has it, or a function of its IOMMU group 93, open" in said
    assert f"\n{GPU}: " not in said


def test_a_foreign_device_in_the_group_ends_with_1_until_it_is_allowed(kernel: FakeKernel, capsys: Capture) -> None:
    # facts/field-problems.md, row 6
    nic = kernel.add_device(other("0000:3c:00.0", MELLANOX, 0x1021, CLASS_NIC, group=65), driver="mlx5_core")
    assert run(kernel, "bind") == 1
    assert f"add --allow-group-member {nic}" in capsys.readouterr().err
    assert run(kernel, "bind", "--allow-group-member", str(nic)) == 0
    assert driver_of(kernel, nic) == "vfio-pci"


def test_a_driver_that_does_not_load_ends_with_1_and_says_why(kernel: FakeKernel, capsys: Capture) -> None:
    # facts/field-problems.md, row 32
    assert run(kernel, "bind", "--driver", "ghost_vfio_pci") == 1
    assert "could not load the kernel module ghost_vfio_pci" in capsys.readouterr().err


def test_a_dry_run_tells_which_module_would_be_loaded_and_loads_none(kernel: FakeKernel, capsys: Capture) -> None:
    assert run(kernel, "bind", "--dry-run", "--driver", "nvgrace_gpu_vfio_pci") == 0
    assert "would load the kernel module nvgrace_gpu_vfio_pci" in capsys.readouterr().out
    assert "nvgrace_gpu_vfio_pci" not in kernel.sysfs().drivers()


# --- not supported on this node


def test_a_node_without_an_iommu_ends_with_3_and_one_sentence(bare_kernel: FakeKernel, capsys: Capture) -> None:
    # facts/field-problems.md, row 23
    bare_kernel.add_device(gpu("0000:0a:00.0"), driver="nvidia")
    assert run(bare_kernel, "bind") == 3
    assert "switch the IOMMU on in the firmware" in capsys.readouterr().err
    assert bare_kernel.writes == []


def test_one_device_without_an_iommu_group_among_others_is_a_failure(kernel: FakeKernel) -> None:
    kernel.add_device(gpu("0000:0a:00.0"), driver="nvidia")
    kernel.faults.fail[(OTHER_GPU, "bind")] = errno.EBUSY
    assert run(kernel, "bind") == 1
    assert driver_of(kernel, GPU) == "vfio-pci"


@pytest.mark.parametrize("verb", ["status", "plan", "bind", "unbind"])
def test_a_host_root_without_sys_ends_with_3(tmp_path: Path, verb: str, capsys: Capture) -> None:
    assert run_command(cli, [verb, "--host-root", str(tmp_path)]) == 3
    said = capsys.readouterr().err
    assert "cannot list" in said
    assert "is its /sys mounted under --host-root?" in said


def test_a_sys_that_cannot_be_listed_ends_with_3(tmp_path: Path, capsys: Capture) -> None:
    devices = tmp_path / "sys/bus/pci/devices"
    devices.parent.mkdir(parents=True)
    if os.geteuid():
        devices.mkdir(mode=0)
        reason = "Permission denied"
    else:  # nothing is unreadable to root
        devices.touch()
        reason = "Not a directory"
    assert run_command(cli, ["status", "--host-root", str(tmp_path)]) == 3
    assert reason in capsys.readouterr().err


# --- wrong usage


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--device", "3b:00.0"], "'3b:00.0' is not a PCI address: write domain:bus:device.function in full"),
        (["--device", "0000:3b:00"], "'0000:3b:00' is not a PCI address"),
        (["--device", "0000:3b:00.8"], "is not a PCI address"),
        (["--device", "0000:3b:00.0 "], "is not a PCI address"),
        (["--device", ""], "'' is not a PCI address"),
        (["--device", "all"], "'all' is not a PCI address"),
        (["--device", "0000:99:00.0"], "0000:99:00.0 is no NVIDIA device of this node: see vfio-manager status"),
        (["--allow-group-member", "3c"], "'3c' is not a PCI address"),
        (["--nvswitches", "perhaps"], "--nvswitches (BIND_NVSWITCHES) is 'perhaps': write auto, always, never"),
        (["--driver", "nvidia"], "--driver 'nvidia' is no VFIO driver"),
        (["--driver", "../vfio-pci"], "--driver '../vfio-pci' is no driver's name"),
        (["--driver", "vfio-pci\n"], "is no driver's name"),
        (["--driver", ""], "is no driver's name"),
        (["--unbind-timeout", "0"], "0"),
        (["--unbind-timeout", "nan"], "'--unbind-timeout' (env var: 'UNBIND_TIMEOUT'): nan is not a number of seconds"),
        (["--unbind-timeout", "inf"], "'--unbind-timeout' (env var: 'UNBIND_TIMEOUT'): inf is not a number of seconds"),
        (["--unbind-timeout", "soon"], "'soon' is not a valid float"),
        (["--everything"], "No such option"),
    ],
)
@pytest.mark.parametrize("verb", ["bind", "unbind", "status"])
def test_wrong_usage_ends_with_2_one_sentence_and_nothing_done(
    kernel: FakeKernel, verb: str, options: list[str], reason: str, capsys: Capture
) -> None:
    assert run(kernel, verb, *options) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert "Traceback" not in said
    assert kernel.writes == []


def test_a_switch_policy_from_the_environment_is_checked_too(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("BIND_NVSWITCHES", "yes please")
    assert run(kernel, "bind") == 2
    assert "'yes please'" in capsys.readouterr().err
    switch = kernel.add_device(nvswitch("0000:07:00.0", group=7), driver="nvidia-nvswitch")
    monkeypatch.setenv("BIND_NVSWITCHES", "true")  # as existing manifests set it
    assert run(kernel, "bind") == 0
    assert driver_of(kernel, switch) == "vfio-pci"


@pytest.mark.parametrize("vendor", [MELLANOX, 0x10DE])
def test_neither_another_vendors_device_nor_a_port_can_be_named(
    kernel: FakeKernel, vendor: int, capsys: Capture
) -> None:
    # Grace has NVIDIA's own PCIe root ports: unbinding one would take its GPU away.
    pci_class = CLASS_PORT if vendor == 0x10DE else CLASS_NIC
    address: PciAddress = kernel.add_device(other("0000:0a:00.0", vendor, 0x22B1, pci_class, group=3))
    assert run(kernel, "bind", "--device", str(GPU), "--device", str(address)) == 2
    assert f"{address} is no NVIDIA device of this node" in capsys.readouterr().err
    assert kernel.writes == []


def test_a_host_root_that_is_no_folder_ends_with_2(capsys: Capture) -> None:
    assert run_command(cli, ["status", "--host-root", "/nowhere/at/all"]) == 2
    assert "host root /nowhere/at/all is not a folder" in capsys.readouterr().err
