"""What the host says of its CPU and of its boot."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cc_manager.host import boot_id, has_tee
from nodelib.errors import NodeError
from tests.fakes.kernel import FakeKernel


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[FakeKernel]:
    with FakeKernel(tmp_path / "host") as kernel:
        yield kernel


@pytest.mark.parametrize(("module", "parameter"), [("kvm_amd", "sev_snp"), ("kvm_intel", "tdx")])
@pytest.mark.parametrize(("value", "answer"), [("Y", True), ("1", True), ("N", False), ("0", False), ("", False)])
def test_the_cpu_protects_vms_where_kvm_says_so(
    kernel: FakeKernel, module: str, parameter: str, value: str, answer: bool
) -> None:
    kernel.set_module_parameter(module, parameter, value)
    assert has_tee(kernel.sysfs()) is answer


def test_older_protections_do_not_count(kernel: FakeKernel) -> None:
    kernel.set_module_parameter("kvm_amd", "sev", "Y")
    kernel.set_module_parameter("kvm_amd", "sev_es", "Y")
    assert not has_tee(kernel.sysfs())


def test_a_host_without_kvm_protects_nothing(kernel: FakeKernel) -> None:
    assert not has_tee(kernel.sysfs())


def test_the_boot_id_is_the_kernels(kernel: FakeKernel) -> None:
    path = kernel.host.root / "proc/sys/kernel/random/boot_id"
    path.chmod(0o644)
    path.write_text("0b7d9c1e-6a0f-4a55-9d3f-58f6a1f0c111\n")
    assert boot_id(kernel.host) == "0b7d9c1e-6a0f-4a55-9d3f-58f6a1f0c111"


def test_without_the_hosts_proc_the_message_says_what_to_mount(kernel: FakeKernel) -> None:
    path = kernel.host.root / "proc/sys/kernel/random/boot_id"
    path.unlink()
    with pytest.raises(NodeError, match=f"cannot read the boot id {path}: mount the host's /proc under --host-root"):
        boot_id(kernel.host)
