"""`vfio-manage`: what existing manifests and scripts call, with the effects that they rely on."""

import signal
import subprocess
import sys

import pytest

from nodelib.cli import run_command
from nodelib.pci import PciAddress
from tests.fakes.kernel import FakeKernel
from tests.fakes.parts import nvswitch
from tests.vfio_manager.builders import AUDIO, GPU, OTHER_GPU, driver_of, shown
from vfio_manager.compat import cli

SWITCH = PciAddress.parse("0000:90:00.0")
Capture = pytest.CaptureFixture[str]


def run(kernel: FakeKernel, *args: str) -> int:
    return run_command(cli, args, obj=kernel.node())


def test_bind_all_binds_and_returns(kernel: FakeKernel) -> None:
    assert run(kernel, "bind", "--all") == 0
    assert [driver_of(kernel, address) for address in (GPU, AUDIO, OTHER_GPU)] == ["vfio-pci"] * 3


def test_one_device_is_bound_with_its_slot_and_no_other(kernel: FakeKernel) -> None:
    assert run(kernel, "bind", "-d", str(GPU)) == 0
    assert [driver_of(kernel, address) for address in (GPU, AUDIO, OTHER_GPU)] == ["vfio-pci", "vfio-pci", "nvidia"]


def test_unbind_leaves_no_driver_and_no_override_and_probes_nothing(kernel: FakeKernel) -> None:
    assert run(kernel, "bind", "-a") == 0
    kernel.writes.clear()
    assert run(kernel, "unbind", "-a") == 0
    for address in (GPU, AUDIO, OTHER_GPU):
        assert (shown(kernel, address).driver, shown(kernel, address).override) == (None, "(null)")
    assert not [path for path, _ in kernel.writes if path.endswith("drivers_probe")]


def test_field_13_unbind_skips_a_gpu_under_a_running_vm_names_it_and_fails(kernel: FakeKernel, capsys: Capture) -> None:
    assert run(kernel, "bind", "-a") == 0
    capsys.readouterr()
    with kernel.start_vm(GPU):
        assert run(kernel, "unbind", "-a") == 1
        assert driver_of(kernel, GPU) == "vfio-pci"
    assert driver_of(kernel, OTHER_GPU) is None
    said = capsys.readouterr().err.partition("error:")[2]
    assert str(GPU) in said
    assert str(OTHER_GPU) not in said


@pytest.mark.parametrize("arguments", [["bind"], ["unbind"], ["bind", "-a", "-d", str(GPU)], ["bind", "-d", "3b:00.0"]])
def test_which_devices_are_meant_must_be_said_in_full_and_once(kernel: FakeKernel, arguments: list[str]) -> None:
    assert run(kernel, *arguments) == 2
    assert kernel.writes == []


def test_switches_are_bound_only_if_asked_for(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel.add_device(nvswitch(str(SWITCH), group=7))
    assert run(kernel, "bind", "-a") == 0
    assert driver_of(kernel, SWITCH) is None
    monkeypatch.setenv("BIND_NVSWITCHES", "true")
    assert run(kernel, "bind", "-a") == 0
    assert driver_of(kernel, SWITCH) == "vfio-pci"
    assert run(kernel, "unbind", "-a") == 0
    assert driver_of(kernel, SWITCH) == "vfio-pci"
    assert run(kernel, "unbind", "-a", "--unbind-nvswitches") == 0
    assert driver_of(kernel, SWITCH) is None


def test_bind_with_stay_remains_until_sigterm_and_releases_nothing(kernel: FakeKernel) -> None:
    assert run(kernel, "bind", "-a") == 0
    command = [
        sys.executable,
        "-m",
        "vfio_manager.compat",
        "bind",
        "-a",
        "--stay",
        "--host-root",
        str(kernel.host.root),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = next(line for line in process.stderr if "are on their VFIO drivers" in line)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
    assert "all 3 functions" in said
    assert driver_of(kernel, GPU) == "vfio-pci"
