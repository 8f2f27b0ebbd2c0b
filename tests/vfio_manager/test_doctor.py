"""`doctor`: each check seen to pass, warn and fail on trees like those of real nodes, and the screen of it all."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nodelib.cli import run_command
from nodelib.doctor import Check, report
from nodelib.node import Node
from nodelib.output import render
from tests.fakes.kernel import FakeKernel
from tests.fakes.parts import CLASS_NIC, CLASS_PORT, MELLANOX, gpu, other
from tests.fakes.topologies import Drivers, build
from tests.vfio_manager.builders import AUDIO, GPU, OTHER_GPU, add_card, add_other_gpu, bind
from vfio_manager.cli import cli
from vfio_manager.doctor import examine
from vfio_manager.modalias import DriverChoice
from vfio_manager.plan import plan_bind
from vfio_manager.settings import Settings

Capture = pytest.CaptureFixture[str]
Row = dict[str, str]
VFIO_MODULES = ("vfio/vfio", "vfio/vfio_iommu_type1", "vfio/pci/vfio-pci-core", "vfio/pci/vfio-pci")


@pytest.fixture(autouse=True)
def in_a_usual_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def put(kernel: FakeKernel, path: str, content: str | bytes) -> None:
    """A file of the host, whatever was there before."""
    place = kernel.host.root / path
    if place.is_dir():
        shutil.rmtree(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    place.write_bytes(content.encode() if isinstance(content, str) else content)


def empty(kernel: FakeKernel, folder: str) -> None:
    """Nothing in the host's *folder* any more."""
    shutil.rmtree(kernel.host.root / folder, ignore_errors=True)
    (kernel.host.root / folder).mkdir(parents=True)


def make_fit(kernel: FakeKernel) -> None:
    """What a host that is set up for VFIO has beside what the simulated kernel shows."""
    modules = f"lib/modules/{kernel.release}"
    put(kernel, f"{modules}/modules.dep", "".join(f"kernel/drivers/{name}.ko.xz:\n" for name in VFIO_MODULES))
    put(kernel, f"{modules}/modules.builtin", "kernel/drivers/iommu/iommufd/iommufd.ko\n")
    put(kernel, "sys/kernel/irq/0/chip_name", "IR-IO-APIC\n")
    put(kernel, "sys/kernel/irq/33/chip_name", "DMAR-MSI\n")
    put(kernel, "proc/cpuinfo", "vendor_id\t: GenuineIntel\nflags\t\t: fpu vmx\n")
    put(kernel, "proc/1/comm", "systemd\n")
    put(kernel, "sys/class/iommu/dmar0/name", "")
    for group in (kernel.host.root / "sys/kernel/iommu_groups").iterdir():
        put(kernel, f"sys/kernel/iommu_groups/{group.name}/type", "DMA-FQ\n")


@pytest.fixture
def fit(bare_kernel: FakeKernel) -> FakeKernel:
    """Two GPUs that nobody has, one with an audio function, on a host where every check passes."""
    add_card(bare_kernel, on=None, audio_on=None)
    add_other_gpu(bare_kernel, on=None)
    make_fit(bare_kernel)
    return bare_kernel


def examined(kernel: FakeKernel, capsys: Capture, *args: str) -> dict[str, Row]:
    """The checks by name, as programs get them; the exit code is what they come to."""
    code = run_command(cli, ["doctor", "-o", "json", *args], obj=kernel.node())
    captured = capsys.readouterr()
    assert captured.err == ""
    rows: list[Row] = json.loads(captured.out)
    for row in rows:
        assert list(row) == ["check", "result", "found", "remedy"]
        assert row["result"] in ("pass", "warn", "fail")
        assert bool(row["remedy"]) is (row["result"] != "pass"), row
    assert code == int(any(row["result"] == "fail" for row in rows))
    by_name = {row["check"]: row for row in rows}
    assert len(by_name) == len(rows)
    return by_name


def results(checks: dict[str, Row], result: str) -> set[str]:
    return {name for name, row in checks.items() if row["result"] == result}


def screen(kernel: FakeKernel, capsys: Capture, code: int) -> list[str]:
    """The lines that people get; they fit a terminal, and what is wrong is told whole."""
    assert run_command(cli, ["doctor"], obj=kernel.node()) == code
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    flowing = " ".join(" ".join(lines).split())
    for name, row in examined(kernel, capsys).items():
        if row["result"] != "pass":
            assert f"{row['result']} {name}: {row['found']}; {row['remedy']}" in flowing
    return lines


# --- a host that is set up


def test_every_check_passes_on_a_host_that_is_set_up(fit: FakeKernel, capsys: Capture) -> None:
    assert screen(fit, capsys, 0) == [
        "RESULT  CHECK          FOUND",
        "pass    functions      3 looked at, all could be read",
        "pass    iommu          Intel VT-d is on, 1 unit",
        "pass    command-line   intel_iommu=on iommu=pt",
        "pass    iommu-groups   2 on the node, every GPU is in one",
        "pass    group-type     DMA-FQ",
        "pass    interrupts     remapped",
        "pass    sharing        no GPU shares its IOMMU group with anything foreign",
        "pass    no-iommu-mode  off",
        "pass    vfio-modules   vfio loadable, vfio_pci loaded, iommufd built in",
        "pass    vfio-driver    vfio-pci loaded",
        "pass    other-drivers  neither nvidia nor nouveau is loaded",
        "pass    persistence    no nvidia-persistenced in /proc",
        "pass    lockdown       none",
        "pass    sr-iov         no virtual functions are on",
        "pass    d3cold         allowed for 2, `bind` forbids it",
        "pass    sys-writable   yes",
        "pass    devices        2 of 2 can be given to VMs, 2 after `vfio-manager bind`",
        "",
        "this node can work: 17 checks, none failed, 0 warnings",
    ]
    assert fit.writes == []


@pytest.mark.parametrize("cdevs", [False, True])
@pytest.mark.parametrize("topology", ["dgx-h100", "workstation", "gh200"])
def test_nodes_that_can_work_pass_before_and_after_bind(
    tmp_path: Path, capsys: Capture, topology: str, cdevs: bool
) -> None:
    with build(topology, tmp_path, drivers=Drivers(gpu=None), vfio_cdevs=cdevs) as kernel:
        make_fit(kernel)
        before = examined(kernel, capsys)
        screen(kernel, capsys, 0)
        assert bind(kernel) == []
        after = examined(kernel, capsys)
        screen(kernel, capsys, 0)
    assert results(before, "fail") | results(after, "fail") == set()
    assert results(after, "warn") == set()
    count = {"dgx-h100": 12}.get(topology, 1)
    assert before["devices"]["found"] == f"{count} of {count} can be given to VMs, {count} after `vfio-manager bind`"
    assert after["devices"]["found"] == f"{count} of {count} can be given to VMs"
    driver = "nvgrace_gpu_vfio_pci" if topology == "gh200" else "vfio-pci"
    assert before["vfio-driver"]["found"] == f"{driver} loaded"


def test_a_node_without_nvidia_devices_passes(bare_kernel: FakeKernel, capsys: Capture) -> None:
    bare_kernel.add_device(other("0000:3c:00.0", MELLANOX, 0x1021, CLASS_NIC, group=4), driver="mlx5_core")
    lines = screen(bare_kernel, capsys, 0)
    assert lines[1:] == [
        "pass    devices  no NVIDIA device on this node: nothing to do",
        "",
        "this node can work: 1 check, none failed, 0 warnings",
    ]


def test_nvidias_own_ports_are_no_device_to_examine(bare_kernel: FakeKernel, capsys: Capture) -> None:
    # Grace has NVIDIA's PCIe root ports also where no GPU is plugged in.
    bare_kernel.add_device(other("0009:00:00.0", 0x10DE, 0x22B1, CLASS_PORT, group=4), driver="pcieport")
    assert list(examined(bare_kernel, capsys)) == ["devices"]


def test_a_device_that_cannot_be_read_is_not_taken_for_no_device(bare_kernel: FakeKernel, capsys: Capture) -> None:
    address = bare_kernel.add_device(gpu("0000:0a:00.0", group=3))
    put(bare_kernel, f"sys/bus/pci/devices/{address}/vendor", "garbage\x1b[2J")
    checks = examined(bare_kernel, capsys)
    assert results(checks, "fail") == {"functions"}
    assert str(address) in checks["functions"]["found"]
    assert "\x1b" not in "\n".join(screen(bare_kernel, capsys, 1))


def test_an_attribute_that_makes_no_sense_is_a_warning(fit: FakeKernel, capsys: Capture) -> None:
    put(fit, f"sys/bus/pci/devices/{GPU}/numa_node", "somewhere")
    checks = examined(fit, capsys)
    assert results(checks, "warn") == {"functions"}
    assert f"{GPU}: numa_node makes no sense" in checks["functions"]["found"]


# --- platform


def test_a_machine_without_an_iommu_fails_with_the_cause_once(tmp_path: Path, capsys: Capture) -> None:
    # facts/field-problems.md, row 23; tests/data/h200-vm-sysfs.json
    with build("h200-vm", tmp_path) as kernel:
        make_fit(kernel)
        empty(kernel, "sys/class/iommu")
        put(kernel, "proc/cpuinfo", "vendor_id\t: GenuineIntel\nflags\t\t: fpu hypervisor\n")
        checks = examined(kernel, capsys)
        screen(kernel, capsys, 1)
    assert results(checks, "fail") == {"iommu", "devices"}
    assert results(checks, "warn") == {"other-drivers"}
    assert checks["iommu"]["remedy"].startswith("this is a virtual machine: give it a virtual IOMMU")
    assert checks["devices"]["found"] == "1 of 1 cannot be given to a VM: 0000:00:06.0"
    assert not {"iommu-groups", "group-type", "interrupts", "sharing"} & set(checks)


def test_an_iommu_switched_off_on_the_command_line_is_named_there(bare_kernel: FakeKernel, capsys: Capture) -> None:
    bare_kernel.add_device(gpu("0000:0a:00.0"))
    make_fit(bare_kernel)
    empty(bare_kernel, "sys/class/iommu")
    bare_kernel.processes.set_command_line("ro quiet intel_iommu=off")
    checks = examined(bare_kernel, capsys)
    assert results(checks, "fail") == {"iommu", "command-line", "devices"}
    assert checks["command-line"]["found"] == "switches the IOMMU off: intel_iommu=off"


def test_a_gpu_that_alone_is_in_no_group_is_named(fit: FakeKernel, capsys: Capture) -> None:
    lost = fit.add_device(gpu("0000:0a:00.0"))
    checks = examined(fit, capsys)
    assert results(checks, "fail") == {"iommu-groups", "devices"}
    assert checks["iommu-groups"]["found"] == f"none for {lost}"
    assert checks["devices"]["found"] == f"1 of 3 cannot be given to a VM: {lost}"


@pytest.mark.parametrize(("unit", "kind"), [("ivhd0", "AMD-Vi"), ("smmu3.0x2b4", "Arm SMMUv3"), ("", None)])
def test_the_iommus_kind_is_told_or_said_to_be_unknown(
    fit: FakeKernel, capsys: Capture, unit: str, kind: str | None
) -> None:
    empty(fit, "sys/class/iommu")
    if unit:
        put(fit, f"sys/class/iommu/{unit}", "")
    row = examined(fit, capsys)["iommu"]
    assert row["result"] == ("pass" if kind else "warn")
    assert row["found"] == (
        f"{kind} is on, 1 unit" if kind else "on, for there are groups; its kind is not in /sys/class/iommu"
    )


def test_passthrough_is_a_warning_where_it_costs_sev_snp(fit: FakeKernel, capsys: Capture) -> None:
    put(fit, "sys/kernel/iommu_groups/65/type", "identity\n")
    assert examined(fit, capsys)["group-type"]["result"] == "pass"
    empty(fit, "sys/class/iommu")
    put(fit, "sys/class/iommu/ivhd0", "")
    row = examined(fit, capsys)["group-type"]
    assert row["result"] == "warn"
    assert "SEV-SNP" in row["found"]


@pytest.mark.parametrize(
    ("chip", "parameter", "result"),
    [
        ("IO-APIC", None, "fail"),
        ("IO-APIC", "vfio_iommu_type1", "warn"),
        ("IO-APIC", "iommufd", "warn"),
        ("IR-IO-APIC", "vfio_iommu_type1", "warn"),
        ("GICv3", None, "warn"),
    ],
)
def test_interrupts_without_remapping_keep_vms_from_starting(
    fit: FakeKernel, capsys: Capture, chip: str, parameter: str | None, result: str
) -> None:
    put(fit, "sys/kernel/irq/0/chip_name", f"{chip}\n")
    if parameter:
        fit.set_module_parameter(parameter, "allow_unsafe_interrupts", "Y")
    checks = examined(fit, capsys)
    assert results(checks, result) == {"interrupts"}


def test_two_gpus_in_one_group_are_a_warning_that_names_them(tmp_path: Path, capsys: Capture) -> None:
    # facts/field-problems.md, row 7
    with build("shared-group", tmp_path) as kernel:
        make_fit(kernel)
        row = examined(kernel, capsys)["sharing"]
        screen(kernel, capsys, 0)
    assert row["result"] == "warn"
    assert row["found"] == "too coarse (ACS): group 12 is 0000:3d:00.0 on nvidia, 0000:3e:00.0 on nvidia"


def test_a_foreign_device_on_its_driver_fails_until_it_may_be_taken(fit: FakeKernel, capsys: Capture) -> None:
    # facts/field-problems.md, row 6
    nic = fit.add_device(other("0000:3c:00.0", MELLANOX, 0x1021, CLASS_NIC, group=65), driver="mlx5_core")
    checks = examined(fit, capsys)
    assert results(checks, "fail") == {"sharing", "devices"}
    members = f"{GPU} on no driver, {AUDIO} on no driver, {nic} on mlx5_core"
    assert checks["sharing"]["found"] == f"too coarse (ACS): group 65 is {members}"
    assert f"--allow-group-member {nic}" in checks["sharing"]["remedy"]
    assert checks["devices"]["found"] == f"1 of 2 cannot be given to a VM: {GPU}"
    allowed = examined(fit, capsys, "--allow-group-member", str(nic))
    assert (results(allowed, "fail"), results(allowed, "warn")) == (set(), {"sharing"})


# --- kernel


def test_no_iommu_mode_is_a_warning_and_without_an_iommu_a_failure(tmp_path: Path, capsys: Capture) -> None:
    with FakeKernel(tmp_path) as kernel:
        kernel.set_module_parameter("vfio", "enable_unsafe_noiommu_mode", "Y")
        lone = kernel.add_device(gpu("0000:0a:00.0"))
        kernel.add_device(gpu("0000:0b:00.0", group=4))
        make_fit(kernel)
        assert examined(kernel, capsys)["no-iommu-mode"]["result"] == "warn"
        kernel.unplug("0000:0b:00.0")
        empty(kernel, "sys/class/iommu")
        checks = examined(kernel, capsys)
        assert checks["no-iommu-mode"]["result"] == "fail"
        assert checks["devices"]["found"] == f"1 of 1 cannot be given to a VM: {lone}"


def test_modules_are_looked_up_for_the_kernel_that_runs(fit: FakeKernel, capsys: Capture) -> None:
    put(fit, f"lib/modules/{fit.release}/modules.builtin", "")
    put(fit, f"lib/modules/{fit.release}/modules.dep", "kernel/drivers/vfio/vfio.ko:\n")
    checks = examined(fit, capsys)
    assert results(checks, "fail") == {"vfio-modules"}
    assert checks["vfio-modules"]["found"] == "vfio loadable, vfio_pci loaded, vfio_iommu_type1 absent"


def test_without_lib_modules_they_are_unknown(fit: FakeKernel, capsys: Capture) -> None:
    shutil.rmtree(fit.host.root / "lib")
    checks = examined(fit, capsys)
    assert results(checks, "warn") == {"vfio-modules"}
    assert checks["vfio-modules"]["found"] == "vfio unknown, vfio_pci loaded, vfio_iommu_type1 unknown"


def test_a_back_end_that_nothing_will_load_is_a_warning(fit: FakeKernel, capsys: Capture) -> None:
    put(fit, f"lib/modules/{fit.release}/modules.builtin", "kernel/drivers/vfio/vfio.ko\n")
    row = examined(fit, capsys)["vfio-modules"]
    assert (row["result"], row["remedy"]) == ("warn", "run: modprobe vfio_iommu_type1")


def test_a_driver_that_can_be_loaded_passes_for_bind_loads_it(fit: FakeKernel, capsys: Capture) -> None:
    # facts/field-problems.md, row 32
    put(fit, f"lib/modules/{fit.release}/modules.dep", "x/vfio.ko:\nx/nvgrace-gpu-vfio-pci.ko:\n")
    row = examined(fit, capsys, "--driver", "nvgrace_gpu_vfio_pci")["vfio-driver"]
    assert (row["result"], row["found"]) == ("pass", "nvgrace_gpu_vfio_pci loadable")


def test_a_driver_of_which_nothing_is_known_is_a_warning_with_the_command(fit: FakeKernel, capsys: Capture) -> None:
    shutil.rmtree(fit.host.root / "lib")
    row = examined(fit, capsys, "--driver", "nvgrace_gpu_vfio_pci")["vfio-driver"]
    assert (row["result"], row["remedy"]) == ("warn", "run: modprobe -a nvgrace_gpu_vfio_pci")


def test_a_driver_that_this_kernel_lacks_fails(fit: FakeKernel, capsys: Capture) -> None:
    checks = examined(fit, capsys, "--driver", "nvgrace_gpu_vfio_pci")
    assert results(checks, "fail") == {"vfio-driver", "devices"}
    assert checks["vfio-driver"]["found"] == "nvgrace_gpu_vfio_pci absent"
    assert checks["devices"]["found"] == f"2 of 2 cannot be given to a VM: {GPU}, {OTHER_GPU}"


def test_a_needed_module_on_the_kernels_blacklist_fails(fit: FakeKernel, capsys: Capture) -> None:
    fit.processes.set_command_line("ro module_blacklist=nouveau,vfio")
    checks = examined(fit, capsys)
    assert results(checks, "fail") == {"command-line"}
    assert checks["command-line"]["found"] == "module_blacklist keeps vfio from being loaded"


@pytest.mark.parametrize("module", ["nvidia", "nouveau"])
def test_a_driver_that_fights_back_is_a_warning(fit: FakeKernel, capsys: Capture, module: str) -> None:
    put(fit, f"sys/module/{module}/initstate", "live\n")
    checks = examined(fit, capsys)
    assert results(checks, "warn") == {"other-drivers"}
    assert f"blacklist {module} in modprobe.d" in checks["other-drivers"]["remedy"]


def test_the_persistence_daemon_fails_while_it_has_a_gpu_that_is_to_be_bound(
    kernel: FakeKernel, capsys: Capture
) -> None:
    # facts/field-problems.md, row 15
    make_fit(kernel)
    with kernel.in_use(GPU):
        row = examined(kernel, capsys)["persistence"]
        assert row["result"] == "fail"
        assert row["found"] == f"nvidia-persistenced would make unbinding hang: {GPU}, {OTHER_GPU}"
        assert row["remedy"] == "run: systemctl disable --now nvidia-persistenced"
    assert examined(kernel, capsys)["persistence"]["result"] == "pass"


def test_the_persistence_daemon_without_a_gpu_is_a_warning(fit: FakeKernel, capsys: Capture) -> None:
    fit.processes.start(815, "nvidia-persistenced")
    assert results(examined(fit, capsys), "warn") == {"persistence"}


def test_a_containers_own_proc_tells_nothing_of_the_daemon(fit: FakeKernel, capsys: Capture) -> None:
    fit.processes.end(2)  # kthreadd
    row = examined(fit, capsys)["persistence"]
    assert (row["result"], row["found"]) == ("warn", "unknown: the host's processes are not to be seen")
    fit.processes.start(815, "nvidia-persistenced")
    assert "runs" in examined(fit, capsys)["persistence"]["found"]


@pytest.mark.parametrize("mode", ["integrity", "confidentiality"])
def test_lockdown_is_a_warning_that_says_who_suffers(fit: FakeKernel, capsys: Capture, mode: str) -> None:
    # facts/field-problems.md, row 19
    fit.set_lockdown(mode)
    checks = examined(fit, capsys)
    assert results(checks, "warn") == {"lockdown"}
    assert checks["lockdown"]["found"] == f"{mode}: VFIO works, but cc-manager cannot change modes"


def test_a_kernel_that_does_not_show_lockdown_is_said_to_be_unknown(fit: FakeKernel, capsys: Capture) -> None:
    shutil.rmtree(fit.host.root / "sys/kernel/security")
    row = examined(fit, capsys)["lockdown"]
    assert (row["result"], row["found"]) == ("pass", "unknown here; it does not keep VFIO from working")


# --- devices


def test_a_physical_function_with_virtual_ones_fails(fit: FakeKernel, capsys: Capture) -> None:
    # facts/field-problems.md, row 40
    address = fit.add_device(replace(gpu("0000:0a:00.0", group=3), vf_count=4))
    checks = examined(fit, capsys)
    assert results(checks, "fail") == {"sr-iov", "devices"}
    assert checks["sr-iov"]["remedy"] == f"write 0 to /sys/bus/pci/devices/{address}/sriov_numvfs"


def test_a_gpu_without_power_fails(fit: FakeKernel, capsys: Capture) -> None:
    # facts/field-problems.md, row 20
    put(fit, f"sys/bus/pci/devices/{GPU}/power_state", "D3cold\n")
    checks = examined(fit, capsys)
    assert results(checks, "fail") == {"d3cold"}
    assert checks["d3cold"]["found"] == f"without power: {GPU}"


def test_a_gpu_in_a_vm_that_may_lose_power_is_a_warning(bare_kernel: FakeKernel, capsys: Capture) -> None:
    add_card(bare_kernel, on="vfio-pci", audio_on="vfio-pci")
    make_fit(bare_kernel)
    with bare_kernel.start_vm(GPU):
        checks = examined(bare_kernel, capsys)
    assert results(checks, "warn") == {"d3cold"}
    assert checks["d3cold"]["found"] == f"allowed while in use: {GPU}"
    assert checks["devices"]["found"] == "1 of 1 can be given to VMs"
    assert bind(bare_kernel) == []
    assert examined(bare_kernel, capsys)["d3cold"]["found"] == "forbidden"


def test_a_device_that_is_left_for_a_reason_is_named_with_the_remedy(kernel: FakeKernel, capsys: Capture) -> None:
    make_fit(kernel)
    checks = examined(kernel, capsys, "--protect-driver", "snd_hda_intel")
    assert results(checks, "fail") == {"devices"}
    assert checks["devices"]["found"] == f"1 of 2 cannot be given to a VM: {GPU}"


def test_a_gpu_whose_vm_is_to_end_first_is_named_with_the_remedy(bare_kernel: FakeKernel, capsys: Capture) -> None:
    add_card(bare_kernel, on="vfio-pci", audio_on=None)
    make_fit(bare_kernel)
    with bare_kernel.start_vm(GPU):
        row = examined(bare_kernel, capsys)["devices"]
    assert (row["result"], row["remedy"]) == ("fail", "end that virtual machine first")


def test_what_a_setting_leaves_out_is_not_judged(tmp_path: Path, capsys: Capture) -> None:
    drivers = Drivers(gpu=None, nvswitch="nvidia-nvswitch")
    with build("dgx-h100", tmp_path, drivers=drivers) as kernel:
        make_fit(kernel)
        found = examined(kernel, capsys)["devices"]["found"]
        assert found == "8 of 8 can be given to VMs, 8 after `vfio-manager bind`"
        found = examined(kernel, capsys, "--nvswitches", "always")["devices"]["found"]
        assert found == "12 of 12 can be given to VMs, 12 after `vfio-manager bind`"
        found = examined(kernel, capsys, "--device", "0000:1b:00.0")["devices"]["found"]
        assert found == "1 of 1 can be given to VMs, 1 after `vfio-manager bind`"


# --- /sys that cannot be written


def doctor_in_a_namespace(prepare: str, root: Path) -> subprocess.CompletedProcess[str]:
    """`doctor` on the tree at *root* in a mount namespace of its own, after the shell command *prepare*."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no mount namespaces here (unshare -rm)")
    script = f'{prepare} && exec "$2" -m vfio_manager doctor -o json --host-root "$1"'
    command = [unshare, "-rm", "sh", "-c", script, "sh", str(root), sys.executable]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_a_sys_that_is_mounted_read_only_fails(fit: FakeKernel) -> None:
    sys_folder = fit.host.root / "sys"
    prepare = f'mount --bind "{sys_folder}" "{sys_folder}" && mount -o remount,bind,ro "{sys_folder}"'
    result = doctor_in_a_namespace(prepare, fit.host.root)
    rows = {row["check"]: row for row in json.loads(result.stdout)}
    assert result.returncode == 1
    assert results(rows, "fail") == {"sys-writable"}
    assert rows["sys-writable"]["found"] == "/sys is mounted read-only here"
    assert rows["sys-writable"]["remedy"] == "mount the host's /sys writable"


def test_who_may_not_write_sys_is_told_to_be_root(fit: FakeKernel, capsys: Capture) -> None:
    probe = fit.host.root / "sys/bus/pci/drivers_probe"
    if os.geteuid():
        probe.chmod(0o444)
    else:  # root may write any file that is there
        probe.unlink()
    checks = examined(fit, capsys)
    assert results(checks, "fail") == {"sys-writable"}
    assert checks["sys-writable"]["remedy"] == "run as root"


# --- bad input


GARBAGE = {
    "nothing": b"",
    "bytes": bytes(range(256)),
    "null": b"\0",
    "upwards": b"../../../../etc\n",
    "a flood": b"[A=" * 200_000,
    "lines": b"\n\x1b[2J\n]" * 50,
}
READ = {
    "command line": "proc/cmdline",
    "processor": "proc/cpuinfo",
    "release": "proc/sys/kernel/osrelease",
    "process": "proc/1/comm",
    "modules": "lib/modules/6.12/modules.dep",
    "built-in modules": "lib/modules/6.12/modules.builtin",
    "lockdown": "sys/kernel/security/lockdown",
    "group type": "sys/kernel/iommu_groups/65/type",
    "interrupt": "sys/kernel/irq/0/chip_name",
    "parameter": "sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
    "IOMMU": "sys/class/iommu",
    "processes": "proc",
}


def examine_by_itself(node: Node) -> tuple[Check, ...]:
    """The checks without the rest of the agent, which reads some of the same files."""
    inventory = node.scan(with_locked=True)
    choice = DriverChoice(None, (), node.sysfs.drivers())
    return examine(node, inventory, plan_bind(inventory, Settings(), choice), choice)


def is_a_screen(checks: tuple[Check, ...]) -> bool:
    text = render(report(checks), "table")
    return max(map(len, text.splitlines())) <= 80 and text.replace("\n", "").isprintable() and text.isascii()


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("path", READ.values(), ids=READ)
def test_garbage_in_any_file_ends_in_a_screen(fit: FakeKernel, path: str, garbage: bytes) -> None:
    put(fit, path, garbage)
    checks = examine_by_itself(fit.node())
    assert is_a_screen(checks)
    assert len(checks) == 17


def as_folder(place: Path) -> None:
    place.mkdir(parents=True)


def as_loop(place: Path) -> None:
    place.symlink_to(place.name)


def as_nothing(_place: Path) -> None:
    pass


@pytest.mark.parametrize("make", [as_folder, as_loop, as_nothing])
@pytest.mark.parametrize("path", READ.values(), ids=READ)
def test_a_file_that_is_missing_or_none_ends_in_a_screen(
    fit: FakeKernel, path: str, make: Callable[[Path], None]
) -> None:
    put(fit, path, "")
    (fit.host.root / path).unlink()
    make(fit.host.root / path)
    checks = examine_by_itself(fit.node())
    assert is_a_screen(checks)
    assert not [check for check in checks if check.outcome.value == "fail" and check.name != "interrupts"]


@pytest.fixture
def mute(fit: FakeKernel) -> Iterator[FakeKernel]:
    """A tree of which only /sys can be seen."""
    shutil.rmtree(fit.host.root / "proc")
    shutil.rmtree(fit.host.root / "lib")
    yield fit
    (fit.host.root / "proc").mkdir(exist_ok=True)


def test_without_proc_and_lib_modules_all_else_is_still_examined(mute: FakeKernel, capsys: Capture) -> None:
    checks = examined(mute, capsys)
    assert results(checks, "fail") == set()
    assert results(checks, "warn") == {"command-line", "vfio-modules", "persistence"}
    for name in ("command-line", "persistence"):
        assert checks[name]["remedy"].startswith("mount the host's /proc under --host-root")
    screen(mute, capsys, 0)


def test_a_host_root_without_sys_ends_with_3(tmp_path: Path, capsys: Capture) -> None:
    assert run_command(cli, ["doctor", "--host-root", str(tmp_path)]) == 3
    assert "is its /sys mounted under --host-root?" in capsys.readouterr().err
