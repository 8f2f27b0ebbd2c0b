"""Who has a device open: real processes and devices, and trees that look like the /proc of another host."""

import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodelib.files import HostRoot
from nodelib.held import DeviceNumber, Holder, Holders, nvidia_number, pod_uid_of, printable_command
from nodelib.holders import device_numbers, find_holders
from nodelib.slow_reads import SlowReader
from tests.fakes.kernel import FakeKernel, Hardware
from tests.nodelib.samples import PROPERTY, at, gpu, open_descriptors, wait_until

NULL, ZERO, FULL = DeviceNumber(1, 3), DeviceNumber(1, 5), DeviceNumber(1, 7)
UID = "0f2c7d11-9a55-4f0e-8a53-2f3f8a5f6b10"
SLICE_UID = UID.replace("-", "_")
STATIC_UID = "9d0a2f3f8a5f6b106f2f5a521d0c4a4e"


class Proc:
    """A host's /proc: descriptors are links to devices that every machine has."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "proc"
        self.folder.mkdir()
        self.add(2, comm=b"kthreadd\n")
        self.host = HostRoot(root)

    def add(self, pid: int, *opens: str, comm: bytes = b"qemu-system-x86\n", cgroup: bytes = b"0::/\n") -> Path:
        process = self.folder / str(pid)
        (process / "fd").mkdir(parents=True)
        (process / "comm").write_bytes(comm)
        (process / "cgroup").write_bytes(cgroup)
        for number, path in zip(itertools.count(), opens):
            (process / "fd" / str(number)).symlink_to(path)
        return process


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


@pytest.fixture
def slow_reader() -> Iterator[SlowReader]:
    reader = SlowReader()
    yield reader
    reader.close()


@pytest.fixture
def terminal() -> Iterator[tuple[int, DeviceNumber]]:
    """The slave side of a terminal that nobody else has open, and its number."""
    ours, slave = os.openpty()
    number = os.fstat(slave).st_rdev
    try:
        yield slave, DeviceNumber(os.major(number), os.minor(number))
    finally:
        for descriptor in (ours, slave):
            os.close(descriptor)


def pids(holders: Holders, number: DeviceNumber) -> list[int]:
    return [holder.pid for holder in holders.of(number)]


# --- real processes


def test_a_process_that_has_a_device_open_is_found_by_the_device_number(terminal: tuple[int, DeviceNumber]) -> None:
    slave, number = terminal
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=slave) as child:
        comm = Path(f"/proc/{child.pid}/comm")
        wait_until(lambda: comm.read_text() == "cat\n")  # the kernel sets it late in execve
        holders = find_holders(HostRoot(), [number])
        child.kill()
    assert pids(holders, number) == sorted([os.getpid(), child.pid])
    assert next(holder.command for holder in holders.of(number) if holder.pid == child.pid) == "cat"


def test_a_process_that_closed_the_device_is_no_holder(terminal: tuple[int, DeviceNumber]) -> None:
    slave, number = terminal
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=slave) as child:
        assert child.pid in pids(find_holders(HostRoot(), [number]), number)
        child.kill()
    assert pids(find_holders(HostRoot(), [number]), number) == [os.getpid()]


def test_a_device_opened_under_another_name_is_found(tmp_path: Path, terminal: tuple[int, DeviceNumber]) -> None:
    slave, number = terminal
    link = tmp_path / "innocent"
    link.symlink_to(os.ttyname(slave))
    with link.open("rb"):
        assert pids(find_holders(HostRoot(), [number]), number) == [os.getpid()]


def test_looking_leaves_no_descriptor_open(proc: Proc) -> None:
    proc.add(7, "/dev/null")
    (proc.folder / "8").mkdir()
    (proc.folder / "8/fd").write_bytes(b"")
    before = open_descriptors()
    find_holders(proc.host, [NULL])
    find_holders(HostRoot(), [NULL])
    assert open_descriptors() == before


# --- whom a look finds


def test_each_device_gets_its_own_holders_from_one_look(proc: Proc) -> None:
    proc.add(30, "/dev/zero", "/dev/null")
    proc.add(4, "/dev/null")
    proc.add(5, "/dev/full")
    holders = find_holders(proc.host, iter([NULL, ZERO]))
    assert pids(holders, NULL) == [4, 30]
    assert pids(holders, ZERO) == [30]
    assert holders.of(FULL) == ()  # nobody asked for it
    assert holders.complete


def test_a_process_with_many_descriptors_of_a_device_is_one_holder(proc: Proc) -> None:
    proc.add(4, *["/dev/null"] * 2000, "/dev/zero")
    holders = find_holders(proc.host, [NULL, ZERO])
    assert len(holders.of(NULL)) == 1
    assert len(holders.of(NULL, ZERO)) == 1


def test_files_that_are_no_character_device_are_no_proof(proc: Proc, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    proc.add(4, str(tmp_path / "file"), str(tmp_path), "socket:[1234]", "anon_inode:[vfio-device]")
    assert (tmp_path / "file").stat().st_rdev == 0
    assert find_holders(proc.host, [DeviceNumber(0, 0)]) == Holders((), complete=True)


def test_what_is_no_process_is_passed_over(proc: Proc) -> None:
    for name in ("self", "12x", "-4", "²", "0"):
        proc.add(1000, "/dev/null").rename(proc.folder / name)
    (proc.folder / "77").write_text("a file")
    holders = find_holders(proc.host, [NULL])
    assert holders.of(NULL) == ()


def test_asking_for_nothing_looks_at_nothing(tmp_path: Path) -> None:
    assert find_holders(HostRoot(tmp_path), []) == Holders((), complete=True)


# --- what cannot be seen


def test_a_process_that_vanishes_is_passed_over(proc: Proc) -> None:
    (proc.folder / "5").mkdir()  # gone before its descriptors were listed
    proc.add(6, str(proc.folder / "closed"))  # closed after they were listed
    (proc.add(7, "/dev/null") / "comm").unlink()  # gone before its name was read
    (proc.add(8, "/dev/null") / "cgroup").unlink()
    proc.add(9, "/dev/null")
    holders = find_holders(proc.host, [NULL])
    assert pids(holders, NULL) == [9]
    assert holders.complete


def test_a_process_that_may_not_be_looked_into_makes_the_look_incomplete(proc: Proc) -> None:
    proc.add(4, "/dev/null")
    process = proc.add(5)
    (process / "fd").rmdir()
    (process / "fd").write_text("")  # root may open every folder, but not a file as a folder
    holders = find_holders(proc.host, [NULL, ZERO])
    assert pids(holders, NULL) == [4]
    assert not holders.complete


def test_a_descriptor_that_may_not_be_followed_makes_the_look_incomplete_and_the_others_count(proc: Proc) -> None:
    process = proc.add(5, "/dev/zero")
    for name in ("9", "1"):
        (process / "fd" / name).symlink_to(name)  # a loop: the nearest to a refusal that root meets
    holders = find_holders(proc.host, [ZERO])
    assert pids(holders, ZERO) == [5]
    assert not holders.complete


def test_a_host_without_proc_is_an_incomplete_look(tmp_path: Path) -> None:
    assert find_holders(HostRoot(tmp_path), [NULL]) == Holders((), complete=False)


@pytest.mark.parametrize("second", [None, b"pause\n"])
def test_a_proc_without_kernel_threads_shows_only_part_of_the_host(proc: Proc, second: bytes | None) -> None:
    # a container's own /proc, or one mounted with hidepid: proc(5), pid_namespaces(7)
    (proc.folder / "2").rename(proc.folder / "away")
    if second is not None:
        proc.add(2, comm=second)
    proc.add(4, "/dev/null")
    holders = find_holders(proc.host, [NULL])
    assert pids(holders, NULL) == [4]
    assert not holders.complete


def test_a_holder_whose_name_cannot_be_read_is_still_a_holder(proc: Proc) -> None:
    process = proc.add(4, "/dev/null")
    for name in ("comm", "cgroup"):
        (process / name).unlink()
        (process / name).mkdir()
    assert find_holders(proc.host, [NULL]).of(NULL) == (Holder(4, "?", None),)


# --- names


def test_a_holder_reads_as_command_pid_and_pod(proc: Proc) -> None:
    proc.add(4711, "/dev/null", cgroup=f"0::/kubepods/burstable/pod{UID}/abc\n".encode())
    proc.add(4712, "/dev/null", comm=b"nvidia-persiste\n")
    texts = [str(holder) for holder in find_holders(proc.host, [NULL]).of(NULL)]
    assert texts == [f"qemu-system-x86 (pid 4711, pod {UID})", "nvidia-persiste (pid 4712)"]


@pytest.mark.parametrize(
    ("comm", "shown"),
    [
        (b"my (app) x\n", "my (app) x"),
        ("größe\n".encode(), "größe"),
        (b"\xff\xfeqemu\n", r"\xff\xfeqemu"),
        (b"a\nERROR: b\n", r"a\nERROR: b"),
        (b"\x1b[31mred\n", r"\x1b[31mred"),
        (b"\n", "?"),
        (b"", "?"),
        (b"x" * 5000, "x" * 64),
    ],
)
def test_a_command_is_shown_in_printable_characters(comm: bytes, shown: str) -> None:
    assert printable_command(comm) == shown


@PROPERTY
@given(st.binary(max_size=200))
def test_any_command_can_be_printed(comm: bytes) -> None:
    assert printable_command(comm).isprintable()


@pytest.mark.parametrize(
    "path",
    [
        f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICE_UID}.slice/cri-containerd-ab.scope",
        f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{SLICE_UID}.slice",
        f"/kubepods.slice/kubepods-pod{SLICE_UID}.slice/crio-ab.scope",
        f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{SLICE_UID}.slice/cri-containerd-ab.scope",
        f"/system.slice/containerd.service/kubepods-burstable-pod{SLICE_UID}.slice:cri-containerd:ab",
        f"/kubepods/burstable/pod{UID}/ab",
        f"/kubepods/pod{UID}",
        f"/kubepods/besteffort/pod{UID}/kata_ab",
        f"/../../pod{UID}/ab",
        f"/../kubepods-burstable-pod{SLICE_UID}.slice/cri-containerd-ab.scope",
    ],
)
def test_the_pod_is_known_by_its_cgroup(path: str) -> None:
    unified, named = f"0::{path}\n", f"12:pids:/\n4:memory:{path}\n1:name=systemd:{path}\n0::/\n"
    assert pod_uid_of(unified) == UID
    assert pod_uid_of(named) == UID


def test_a_static_pod_is_known_by_its_hash() -> None:
    assert pod_uid_of(f"0::/kubepods/burstable/pod{STATIC_UID}/ab\n") == STATIC_UID


def test_a_pod_cannot_pose_as_another_by_a_cgroup_below_its_own() -> None:
    other = "11111111-2222-3333-4444-555555555555"
    assert pod_uid_of(f"0::/kubepods/pod{UID}/ab/kubepods/pod{other}/cd\n") == UID


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0::/\n",
        "0::/system.slice/nvidia-persistenced.service\n",
        "0::/kata_overhead/abc\n",
        "0::/machine.slice/libpod-9d0a2f3f8a5f6b106f2f5a521d0c4a4e.scope\n",
        f"0::/tripod{UID}/ab\n",
        f"0::/kubepods/pod{UID}0/ab\n",
        f"0::/kubepods/pod{UID[:-1]}/ab\n",
        "no colon at all",
        "\ufffd\ufffd::\x00",
    ],
)
def test_a_cgroup_outside_of_any_pod_names_none(text: str) -> None:
    assert pod_uid_of(text) is None


@PROPERTY
@given(st.text(max_size=200))
def test_no_cgroup_text_is_too_strange(text: str) -> None:
    assert pod_uid_of(text) is None


# --- which numbers belong to a device


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_device_is_in_use_through_its_group_its_cdev_and_its_drm_nodes(
    tmp_path: Path, slow_reader: SlowReader
) -> None:
    device = gpu("3b", 65, vfio_cdev="vfio3")
    folder = tmp_path / "sys/bus/pci/devices/0000:3b:00.0"
    write(tmp_path / "sys/class/vfio/65/dev", "243:65\n")
    write(folder / "vfio-dev/vfio3/dev", "511:3\n")
    write(folder / "drm/card0/dev", "226:0\n")
    write(folder / "drm/renderD128/dev", "226:128\n")
    expected = tuple(DeviceNumber(*pair) for pair in ((226, 0), (226, 128), (243, 65), (511, 3)))
    assert device_numbers(HostRoot(tmp_path), [device], slow_reader) == {device.address: expected}


def test_a_gpu_on_the_nvidia_driver_is_in_use_through_its_own_node(tmp_path: Path, slow_reader: SlowReader) -> None:
    ours, other = gpu("3b", None, driver="nvidia"), gpu("5d", None, driver="nouveau")
    for device, minor in ((ours, 4), (other, 5)):
        path = tmp_path / f"proc/driver/nvidia/gpus/{device.address}/information"
        write(path, f"Model: \t\t NVIDIA H200\nBus Location: \t {device.address}\nDevice Minor: \t {minor}\n")
    numbers = device_numbers(HostRoot(tmp_path), [ours, other], slow_reader)
    assert numbers == {ours.address: (DeviceNumber(195, 4),), other.address: ()}


def test_a_gpu_that_does_not_answer_costs_only_its_own_number(tmp_path: Path) -> None:
    silent, other = gpu("3b", None, driver="nvidia"), gpu("5d", None, driver="nvidia")
    gpus = tmp_path / "proc/driver/nvidia/gpus"
    write(gpus / f"{other.address}/information", "Device Minor: \t 1\n")
    (gpus / str(silent.address)).mkdir()
    os.mkfifo(gpus / f"{silent.address}/information")  # opening it blocks until somebody writes
    reader = SlowReader(timeout_s=0.5)
    try:
        numbers = device_numbers(HostRoot(tmp_path), [silent, other], reader)
    finally:
        reader.close()
    assert numbers == {silent.address: (), other.address: (DeviceNumber(195, 1),)}


def test_an_unbound_device_without_a_group_has_no_number(tmp_path: Path, slow_reader: SlowReader) -> None:
    device = gpu("3b", None, driver=None)
    assert device_numbers(HostRoot(tmp_path), [device], slow_reader) == {device.address: ()}


@pytest.mark.parametrize("text", ["", "65\n", "243:\n", "-1:3\n", "243:65:1\n", "٣:٤\n", "1" * 30 + ":1\n", "\xff\n"])
def test_an_attribute_that_makes_no_sense_is_no_number(tmp_path: Path, slow_reader: SlowReader, text: str) -> None:
    device = gpu("3b", 65, driver="nvidia", vfio_cdev="vfio0")
    write(tmp_path / "sys/class/vfio/65/dev", text)
    write(tmp_path / "proc/driver/nvidia/gpus/0000:3b:00.0/information", f"Device Minor: {text}")
    (tmp_path / "sys/bus/pci/devices/0000:3b:00.0/vfio-dev/vfio0/dev").mkdir(parents=True)
    expected = () if text != "65\n" else (DeviceNumber(195, 65),)
    assert device_numbers(HostRoot(tmp_path), [device], slow_reader) == {device.address: expected}
    with pytest.raises(ValueError, match="is no device number"):
        DeviceNumber.parse(text)


@PROPERTY
@given(st.text(max_size=200))
def test_no_text_of_the_nvidia_driver_is_too_strange(text: str) -> None:
    assert nvidia_number(text) is None


# --- with the simulated kernel


def test_the_virtual_machine_that_holds_a_gpu_is_named(tmp_path: Path, slow_reader: SlowReader) -> None:
    with FakeKernel(tmp_path / "host", vfio_cdevs=True) as kernel:
        address = kernel.add_device(Hardware(at("3b"), 0x10DE, 0x2335, 0x030200, iommu_group=65), driver="vfio-pci")
        node, sysfs = kernel.node(), kernel.sysfs()
        numbers = device_numbers(node.host, [sysfs.pci_device(address)], slow_reader)[address]
        assert numbers == (DeviceNumber(243, 65), DeviceNumber(511, 0))
        assert find_holders(node.host, numbers) == Holders((), complete=True)
        kernel.processes.start(77, "qemu-system-x86_64", cgroup=f"/kubepods/pod{UID}/ab")
        try:
            kernel.processes.hold(77, "/dev/vfio/65", "/dev/vfio/devices/vfio0")
        except PermissionError:
            pytest.skip("this machine lets nobody make device nodes")
        assert find_holders(node.host, numbers).of(*numbers) == (Holder(77, "qemu-system-x86", UID),)
        kernel.processes.end(77)
        assert find_holders(node.host, numbers) == Holders((), complete=True)


def test_the_process_that_holds_a_gpu_of_the_nvidia_driver_is_named(tmp_path: Path, slow_reader: SlowReader) -> None:
    with FakeKernel(tmp_path / "host") as kernel:
        kernel.processes.show_nvidia_gpu("0000:3b:00.0", 0)
        device = gpu("3b", None, driver="nvidia")
        numbers = device_numbers(kernel.host, [device], slow_reader)[at("3b")]
        kernel.processes.start(815, "nvidia-persistenced")
        try:
            kernel.processes.hold(815, "/dev/nvidia0")
        except PermissionError:
            pytest.skip("this machine lets nobody make device nodes")
        assert find_holders(kernel.host, numbers).of(*numbers) == (Holder(815, "nvidia-persiste"),)
