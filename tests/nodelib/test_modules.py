"""Kernel modules and modprobe: real child programs in a PATH of their own, and the lists of a host's file tree.

Issues 3 and 4; DESIGN sections 2 and 4. What the programs say is what kmod 30 says.
"""

import os
import shutil
import stat
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from nodelib.errors import InvalidValue, NodeError, NotSupported
from nodelib.files import HostRoot
from nodelib.modules import Ended, Hung, KernelModules, run_modprobe
from tests.fakes.kernel import FakeKernel
from tests.nodelib.samples import DEADLINE_S, wait_until

RELEASE = "6.12.0-test"
DEP = """kernel/drivers/vhost/vhost_vsock.ko.zst: kernel/drivers/vhost/vhost.ko.zst
kernel/drivers/vfio/pci/vfio-pci.ko:
/lib/modules/old/kernel/net/dummy.ko.xz:

"""


class Host:
    """A host's tree with the folders a module leaves traces in, and a PATH that holds only what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "host"
        self.bin = folder / "bin"
        self.modules = self.root / "lib/modules" / RELEASE
        for place in (self.modules, self.root / "sys/module", self.root / "proc/sys/kernel", self.bin):
            place.mkdir(parents=True)
        self.write("proc/sys/kernel/osrelease", f"{RELEASE}\n")
        (self.modules / "modules.dep").write_text(DEP)
        (self.modules / "modules.builtin").write_text("kernel/drivers/vhost/vhost-net.ko\n")

    def write(self, path: str, text: str) -> None:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def show(self, module: str) -> None:
        (self.root / "sys/module" / module).mkdir()

    def put_modprobe(self, script: str) -> None:
        """A program that finds the host's tree in $root and the last argument in $module."""
        program = self.bin / "modprobe"
        program.write_text(f"#!/bin/sh\nroot={self.root}\nfor module; do :; done\n{script}\n")
        program.chmod(0o755)

    def real(self) -> KernelModules:
        """With the real runner."""
        return KernelModules(
            HostRoot(self.root), partial(run_modprobe, environment={"PATH": f"{self.bin}:/usr/bin:/bin"})
        )


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def refusal(modules: KernelModules, name: str = "vhost_vsock", timeout_s: float = DEADLINE_S) -> str:
    with pytest.raises(NodeError) as caught:
        modules.load(name, timeout_s)
    text = str(caught.value)
    assert text.startswith(f"could not load the kernel module {name}: ")
    assert "\n" not in text
    return text


# --- what there is


def test_the_release_is_the_hosts(host: Host) -> None:
    assert host.real().release() == RELEASE


@pytest.mark.parametrize("text", [None, "\n"])
def test_the_release_is_this_kernels_where_the_host_shows_none(host: Host, text: str | None) -> None:
    file = host.root / "proc/sys/kernel/osrelease"
    file.unlink() if text is None else file.write_text(text)
    assert host.real().release() == os.uname().release


@pytest.mark.parametrize("name", ["vfio_pci", "vfio-pci"])
def test_dash_and_underscore_are_the_same(host: Host, name: str) -> None:
    modules = host.real()
    assert modules.is_present(name)
    assert not modules.is_loaded(name)
    host.show("vfio_pci")
    assert modules.is_loaded(name)
    assert not modules.is_builtin(name)


@pytest.mark.parametrize("name", ["vhost_net", "vhost-net"])
def test_a_module_that_is_part_of_the_kernel_is_built_in(host: Host, name: str) -> None:
    assert host.real().is_builtin(name)
    assert not host.real().is_present(name)


def test_the_list_holds_compressed_modules_and_absolute_paths_and_no_parts_of_names(host: Host) -> None:
    modules = host.real()
    assert [name for name in ("vhost_vsock", "dummy", "vhost", "kernel", "vfio", "ko") if modules.is_present(name)] == [
        "vhost_vsock",
        "dummy",
    ]


def test_bytes_that_are_no_text_hide_no_other_module(host: Host) -> None:
    (host.modules / "modules.dep").write_bytes(b"kernel/\xff\xfe.ko:\nkernel/net/dummy.ko:\n")
    assert host.real().is_present("dummy")


def test_modules_that_are_installed_while_we_run_are_seen(host: Host) -> None:
    modules = host.real()
    assert not modules.is_present("nvgrace_gpu_vfio_pci")
    new = host.modules / "modules.dep.new"  # depmod writes beside and renames
    new.write_text("kernel/drivers/vfio/pci/nvgrace-gpu/nvgrace-gpu-vfio-pci.ko:\n")
    new.replace(host.modules / "modules.dep")
    assert modules.is_present("nvgrace_gpu_vfio_pci")
    assert not modules.is_present("dummy")


def test_a_list_is_read_once(host: Host) -> None:
    """What the file holds is changed behind its stamp's back: only a second reading would notice."""
    modules, path = host.real(), host.modules / "modules.dep"
    assert modules.is_present("dummy")
    before = path.stat()
    path.write_text(DEP.replace("dummy", "other"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert modules.is_present("dummy")


def test_the_hosts_lib_may_be_a_link_to_an_absolute_path(host: Host) -> None:
    (host.root / "usr").mkdir()
    (host.root / "lib").rename(host.root / "usr/lib")
    (host.root / "lib").symlink_to("/usr/lib")
    assert host.real().is_present("dummy")


def test_a_host_that_does_not_show_its_modules_is_not_one_without_the_module(host: Host) -> None:
    shutil.rmtree(host.root / "lib")
    modules = host.real()
    for question in (modules.is_present, modules.is_builtin):
        with pytest.raises(NodeError, match=rf"cannot read .*/{RELEASE}/modules\..*: mount the host's /lib/modules"):
            question("dummy")


def test_a_host_root_without_sys_is_said(host: Host) -> None:
    shutil.rmtree(host.root / "sys")
    modules = host.real()
    for question in (modules.is_loaded, modules.load):
        with pytest.raises(NotSupported, match=r"there is no .*/sys/module; mount the host's /sys"):
            question("dummy")


@pytest.mark.parametrize("name", ["", "../kernel", "a b", "vfio.pci", "vfio_pci\n", "-C/tmp", "ünder"])
def test_what_cannot_be_a_module_reaches_no_file_and_no_program(host: Host, name: str) -> None:
    host.put_modprobe("touch $root/called")
    modules = host.real()
    for question in (modules.is_loaded, modules.is_builtin, modules.is_present, modules.load):
        with pytest.raises(InvalidValue, match="is no kernel module"):
            question(name)
    assert not (host.root / "called").exists()


# --- loading


def test_a_module_is_loaded_from_the_hosts_folder(host: Host) -> None:
    host.put_modprobe('echo "$@" > $root/arguments; mkdir $root/sys/module/$module')
    modules = host.real()
    assert modules.load("vhost-vsock") is True
    assert modules.is_loaded("vhost_vsock")
    assert (host.root / "arguments").read_text() == f"--dirname {host.root} -- vhost_vsock\n"


def test_on_the_host_itself_modprobe_looks_where_it_always_does() -> None:
    calls: list[Sequence[str]] = []

    def run(arguments: Sequence[str], timeout_s: float) -> Ended:
        calls.append(arguments)
        return Ended(1, "")

    with pytest.raises(NodeError):
        KernelModules(HostRoot(), run).load("cgpu_agents_no_such_module")
    assert calls == [("--", "cgpu_agents_no_such_module")]


def test_what_is_loaded_or_built_in_is_left_alone(host: Host) -> None:
    host.put_modprobe("touch $root/called; exit 1")
    host.show("vhost_vsock")
    assert host.real().load("vhost_vsock") is False
    assert host.real().load("vhost-net") is False
    assert not (host.root / "called").exists()


def test_without_lists_modprobe_decides(host: Host) -> None:
    (host.modules / "modules.builtin").unlink()
    host.put_modprobe("mkdir $root/sys/module/$module")
    assert host.real().load("vhost_net") is True


def test_a_name_that_begins_with_a_dash_is_no_option(host: Host) -> None:
    host.put_modprobe('echo "$@" > $root/arguments')
    with pytest.raises(NodeError, match="reported success"):
        host.real().load("-r")
    assert (host.root / "arguments").read_text().endswith("-- _r\n")


def test_modprobe_gets_the_path_alone_and_nothing_to_read(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """MODPROBE_OPTIONS in its environment would be options (modprobe(8))."""
    monkeypatch.setenv("MODPROBE_OPTIONS", "--remove")
    host.put_modprobe(
        "cat /proc/$$/environ > $root/environ; readlink /proc/$$/fd/0 > $root/stdin; mkdir $root/sys/module/$module"
    )
    host.real().load("vhost_vsock")
    assert (host.root / "environ").read_bytes() == f"PATH={host.bin}:/usr/bin:/bin\0".encode()
    assert (host.root / "stdin").read_text() == "/dev/null\n"


def test_the_path_is_this_process_own_unless_another_is_given(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.put_modprobe("echo found >&2; exit 3")
    monkeypatch.setenv("PATH", str(host.bin))
    assert run_modprobe((), DEADLINE_S) == Ended(3, "found\n")


def test_the_simulated_kernel_can_stand_in(tmp_path: Path) -> None:
    with FakeKernel(tmp_path) as kernel:

        def run(arguments: Sequence[str], timeout_s: float) -> Ended:
            try:
                kernel.load_module(arguments[-1])
            except FileNotFoundError as error:
                return Ended(1, f"modprobe: FATAL: Module {arguments[-1]} not found in directory ({error})")
            return Ended(0)

        modules = KernelModules(kernel.host, run)
        assert modules.load("vhost-vsock") is True
        assert modules.load("nvgrace-gpu-vfio-pci") is True
        assert modules.load("nvgrace_gpu_vfio_pci") is False
        assert "nvgrace_gpu_vfio_pci" in kernel.sysfs().drivers()
        assert "has no such module" in refusal(modules, "nvidai")


# --- failures


def test_without_modprobe_that_is_said_with_the_path(host: Host) -> None:
    modules = KernelModules(HostRoot(host.root), partial(run_modprobe, environment={"PATH": str(host.bin)}))
    assert f"cannot run modprobe (there is no modprobe in the PATH {host.bin}); install kmod" in refusal(modules)


def test_a_modprobe_that_cannot_be_executed_is_one_sentence(host: Host) -> None:
    host.put_modprobe("exit 0")
    program = host.bin / "modprobe"
    program.write_text("#!/nonexistent/interpreter\n")
    assert "cannot run modprobe (No such file or directory); install kmod" in refusal(host.real())
    program.chmod(stat.S_IRUSR)
    assert "there is no modprobe in the PATH" in refusal(
        KernelModules(HostRoot(host.root), partial(run_modprobe, environment={"PATH": str(host.bin)}))
    )


INSERT = "modprobe: ERROR: could not insert 'vhost_vsock': "


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        (f"{INSERT}Required key not available", "the kernel takes signed modules only (Secure Boot)"),
        (f"{INSERT}Key was rejected by service", "the kernel takes signed modules only (Secure Boot)"),
        (f"{INSERT}Operation not permitted", "run as root with the capability SYS_MODULE"),
        ("modprobe: FATAL: Module vhost_vsock not found in directory /lib/modules/x", "has no such module: install"),
        ("modprobe: ERROR: Module vhost_vsock is blacklisted.", "remove its blacklist or install line"),
        (f"{INSERT}Exec format error", "see the kernel log"),
    ],
)
def test_a_failure_has_modprobes_last_line_and_the_remedy(host: Host, said: str, remedy: str) -> None:
    host.put_modprobe(f'echo "modprobe: WARNING: something before" >&2; echo "{said}" >&2; echo >&2; exit 1')
    text = refusal(host.real())
    assert f"{said}; " in text
    assert remedy in text
    assert "something before" not in text


def test_an_install_line_that_forbids_the_module_is_found_above_the_last_line(host: Host) -> None:
    first = "modprobe: ERROR: ../libkmod/libkmod-module.c:1047 command_do() Error running install command '/bin/false'"
    host.put_modprobe(f'echo "{first} for module x: retcode 1" >&2; echo "{INSERT}Invalid argument" >&2; exit 1')
    assert "Invalid argument; remove its blacklist or install line from modprobe.d" in refusal(host.real())


@pytest.mark.parametrize(
    ("file", "text", "remedy"),
    [
        (
            "sys/kernel/security/lockdown",
            "none [integrity] confidentiality\n",
            "kernel lockdown (integrity) is in force",
        ),
        ("sys/kernel/security/lockdown", "[none] integrity confidentiality\n", "the capability SYS_MODULE"),
        ("proc/sys/kernel/modules_disabled", "1\n", "loading modules is off until the next boot"),
        ("proc/sys/kernel/modules_disabled", "0\n", "the capability SYS_MODULE"),
        ("proc/cmdline", "quiet module_blacklist=nouveau,vhost_vsock ro\n", "remove it from module_blacklist="),
        ("proc/cmdline", "quiet module_blacklist=nouveau,vhost,vhost_vsock_test ro\n", "the capability SYS_MODULE"),
    ],
)
def test_what_is_not_permitted_is_explained_by_what_forbids_it(host: Host, file: str, text: str, remedy: str) -> None:
    host.write(file, text)
    host.put_modprobe(f'echo "{INSERT}Operation not permitted" >&2; exit 1')
    assert remedy in refusal(host.real())


def test_a_host_without_the_kernels_folder_is_told_to_mount_it(host: Host) -> None:
    shutil.rmtree(host.root / "lib")
    host.put_modprobe('echo "modprobe: FATAL: Module $module not found in directory /x" >&2; exit 1')
    assert f"there is no {host.modules}: mount the host's /lib/modules" in refusal(host.real())


def test_a_failure_without_a_word_has_the_status(host: Host) -> None:
    host.put_modprobe("exit 7")
    assert "modprobe ended with status 7 and said nothing; see the kernel log" in refusal(host.real())


def test_words_without_end_and_bytes_that_are_no_text_are_one_short_sentence(host: Host) -> None:
    host.put_modprobe(r"""printf '\377'"%05000d" 0 >&2; exit 1""")
    assert len(refusal(host.real())) < 500


def test_success_is_believed_only_when_it_is_read_back(host: Host) -> None:
    host.put_modprobe("exit 0")
    assert f"there is no {host.root}/sys/module/vhost_vsock" in refusal(host.real())


def test_a_module_that_somebody_else_loaded_meanwhile_is_loaded(host: Host) -> None:
    host.put_modprobe("mkdir $root/sys/module/$module; exit 1")
    assert host.real().load("vhost_vsock") is True


# --- what does not end


def test_a_modprobe_that_hangs_is_killed_with_what_it_started_at_the_deadline(host: Host, tmp_path: Path) -> None:
    """To open a FIFO for reading waits for a writer, as modprobe waits for a driver's start."""
    os.mkfifo(tmp_path / "never")
    host.put_modprobe(
        f"if [ -e $root/free ]; then mkdir $root/sys/module/$module; exit 0; fi\n"
        f"(read line < {tmp_path}/never) & echo $! > $root/helper; echo $$ > $root/leader; wait"
    )
    modules = host.real()
    text = refusal(modules, timeout_s=1.0)
    assert "modprobe did not end within 1 s and was killed; the kernel may still be at it" in text
    pids = [int((host.root / name).read_text()) for name in ("leader", "helper")]
    assert f"/proc/{pids[0]}/stack" in text
    wait_until(lambda: not any(is_running(pid) for pid in pids))
    (host.root / "free").touch()
    assert load_when_let_go(modules)


def is_running(pid: int) -> bool:
    """Whether it is a process that is no corpse: what modprobe started is reaped by whoever is init here."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def load_when_let_go(modules: KernelModules) -> bool:
    def is_done() -> bool:
        try:
            modules.load("vhost_vsock", DEADLINE_S)
        except NodeError:
            return False
        return True

    wait_until(is_done)
    return modules.is_loaded("vhost_vsock")


def test_what_the_kernel_still_holds_gets_no_second_modprobe_and_other_modules_do(host: Host) -> None:
    """A process inside the kernel outlives its kill; the stand-in is such a one."""
    calls: list[str] = []
    alive = True

    def run(arguments: Sequence[str], timeout_s: float) -> Ended | Hung:
        calls.append(arguments[-1])
        if len(calls) == 1:
            return Hung(4711, lambda: alive)
        host.show(arguments[-1])
        return Ended(0)

    modules = KernelModules(HostRoot(host.root), run)
    refusal(modules)
    for _ in range(2):
        assert "the kernel still holds an earlier modprobe (process 4711)" in refusal(modules)
    assert modules.load("dummy") is True
    assert calls == ["vhost_vsock", "dummy"]
    alive = False
    assert modules.load("vhost_vsock") is True


def test_what_modprobe_leaves_running_does_not_make_it_hang(host: Host, tmp_path: Path) -> None:
    """An install line of modprobe.d may start a service that keeps standard error open."""
    os.mkfifo(tmp_path / "later")
    host.put_modprobe(f"(read line < {tmp_path}/later) & mkdir $root/sys/module/$module; echo started >&2; exit 0")
    try:
        assert host.real().load("vhost_vsock", 1.0) is True
    finally:
        with (tmp_path / "later").open("wb"):
            pass


# --- the real program


@pytest.mark.skipif(shutil.which("modprobe") is None, reason="there is no modprobe here")
def test_the_real_modprobe_looks_in_the_hosts_folder(host: Host) -> None:
    """It takes its release from the kernel, and a module that is in no list never gets there."""
    folder = host.root / "lib/modules" / os.uname().release
    folder.mkdir(exist_ok=True)
    host.write("proc/sys/kernel/osrelease", os.uname().release)
    text = refusal(KernelModules(HostRoot(host.root)), "cgpu_agents_no_such_module")
    assert f"not found in directory {folder}" in text
    assert "has no such module" in text
