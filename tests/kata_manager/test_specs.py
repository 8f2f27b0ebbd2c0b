"""What is in the specs: kinds, names and device nodes of every kind of node."""

from dataclasses import replace
from pathlib import Path

import pytest

from kata_manager.reconcile import SpecKeeper
from kata_manager.settings import Settings
from nodelib.pci import PciAddress
from nodelib.vfio import Naming, VfioMode
from tests.fakes.kernel import FakeKernel
from tests.fakes.parts import CLASS_NIC, MELLANOX, gpu, other
from tests.fakes.topologies import build
from tests.kata_manager.builders import (
    AUDIO,
    GPU,
    HEAD,
    NVSWITCH,
    OTHER_GPU,
    PGPU,
    TWO_GPUS,
    AllBound,
    add_two_gpus,
    entry,
    files,
    folder_of,
    resolved,
    write,
)

FIRST_GPU_OF_A_DGX = """\
# managed by cgpu-agents: do not edit, it is rewritten
cdiVersion: 0.5.0
kind: nvidia.com/pgpu
devices:
- name: '17'
  containerEdits:
    deviceNodes:
    - path: /dev/vfio/17
"""
TWO_GPUS_OF_ONE_GROUP = """\
# managed by cgpu-agents: do not edit, it is rewritten
cdiVersion: 0.5.0
kind: nvidia.com/pgpu
devices:
- name: '0'
  containerEdits:
    deviceNodes:
    - path: /dev/vfio/12
- name: '1'
  containerEdits:
    deviceNodes:
    - path: /dev/vfio/12
- name: '12'
  containerEdits:
    deviceNodes:
    - path: /dev/vfio/12
- name: 0000:3d:00.0
  containerEdits:
    deviceNodes:
    - path: /dev/vfio/12
- name: 0000:3e:00.0
  containerEdits:
    deviceNodes:
    - path: /dev/vfio/12
"""
PER_MODEL = Settings(Naming(gpu_alias="", nvswitch_alias=""))


def test_the_whole_file_of_a_node_with_two_gpus(kernel: FakeKernel) -> None:
    # facts/field-problems.md, rows 8 and 11: the audio function is no GPU, the name is the group's number
    write(kernel)
    assert files(kernel) == {PGPU: TWO_GPUS}


def test_a_dgx_has_one_file_for_its_gpus_and_one_for_its_switches(tmp_path: Path) -> None:
    with build("dgx-h100", tmp_path, drivers=AllBound()) as kernel:
        write(kernel)
        found = files(kernel)
        names = resolved(kernel)
    assert list(found) == [NVSWITCH, PGPU]
    # No index among the names: each of 0 to 7 is the number of a group that is somebody else's.
    assert found[PGPU].startswith(FIRST_GPU_OF_A_DGX)
    assert entry("0000:1b:00.0", "/dev/vfio/17") in found[PGPU]
    assert found[NVSWITCH].startswith(f"{HEAD}kind: nvidia.com/nvswitch\ndevices:\n- name: '7'\n")
    groups = {"pgpu": (17, 24, 31, 38, 45, 52, 59, 66), "nvswitch": (7, 8, 9, 10)}
    ids = {f"nvidia.com/{alias}={number}": number for alias, numbers in groups.items() for number in numbers}
    assert {name: nodes for name, nodes in names.items() if name in ids} == {
        name: [f"/dev/vfio/{number}"] for name, number in ids.items()
    }
    assert len(names) == 2 * len(ids)


def test_two_gpus_of_one_group_are_one_device(tmp_path: Path) -> None:
    # facts/field-problems.md, row 7
    with build("shared-group", tmp_path, drivers=AllBound()) as kernel:
        write(kernel)
        assert files(kernel) == {PGPU: TWO_GPUS_OF_ONE_GROUP}


def test_a_graphics_card_is_one_device_with_its_audio_and_usb_functions(tmp_path: Path) -> None:
    # facts/field-problems.md, rows 6 and 8; 0, its index, is the number of the host bridge's group
    with build("workstation", tmp_path, drivers=AllBound()) as kernel:
        write(kernel)
        assert resolved(kernel) == {
            "nvidia.com/pgpu=1": ["/dev/vfio/1"],
            "nvidia.com/pgpu=0000:01:00.0": ["/dev/vfio/1"],
        }


def test_a_grace_hopper_is_a_gpu_as_any_other(tmp_path: Path) -> None:
    with build("gh200", tmp_path, drivers=AllBound()) as kernel:
        write(kernel)
        assert resolved(kernel) == {
            "nvidia.com/pgpu=2": ["/dev/vfio/2"],
            "nvidia.com/pgpu=0009:01:00.0": ["/dev/vfio/2"],
        }


def test_two_models_under_one_alias_share_one_file(tmp_path: Path) -> None:
    # facts/field-problems.md, row 12
    with build("mixed", tmp_path, drivers=AllBound()) as kernel:
        write(kernel)
        assert list(files(kernel)) == [PGPU]
        assert {name for name in resolved(kernel) if ":" not in name} == {
            f"nvidia.com/pgpu={number}" for number in (1, 3, 5, 7)
        }


def test_with_an_empty_alias_each_model_has_a_kind_of_its_own(tmp_path: Path) -> None:
    # facts/labels-and-settings.md; facts/field-problems.md, rows 12 and 35
    with build("mixed", tmp_path, drivers=AllBound()) as kernel:
        kernel.add_device(gpu("0000:c1:00.0", 0xFFF0, group=100), driver="vfio-pci")
        write(kernel, PER_MODEL)
        assert list(files(kernel)) == [
            "nvidia.com-GB202GL_RTX_PRO_6000_BLACKWELL_SERVER_EDITION.yaml",
            "nvidia.com-GH100_H100_PCIE.yaml",
            "nvidia.com-GPU_FFF0.yaml",
        ]
        assert {name for name in resolved(kernel) if ":" not in name.partition("=")[2]} >= {
            "nvidia.com/GH100_H100_PCIE=1",
            "nvidia.com/GH100_H100_PCIE=3",
            "nvidia.com/GB202GL_RTX_PRO_6000_BLACKWELL_SERVER_EDITION=5",
            "nvidia.com/GB202GL_RTX_PRO_6000_BLACKWELL_SERVER_EDITION=7",
            "nvidia.com/GPU_FFF0=100",
        }


def test_a_machine_without_an_iommu_has_no_spec_and_says_why(tmp_path: Path) -> None:
    with build("h200-vm", tmp_path) as kernel:
        keeper = SpecKeeper(kernel.node(), Settings())
        assert keeper.write().steps == ()
        (reason,) = keeper.left_out()
        assert reason.startswith("0000:00:06.0: it is in no IOMMU group")
        assert not folder_of(kernel).exists(), "a kind without devices has no file"


# --- legacy and IOMMUFD


@pytest.mark.parametrize(
    ("mode", "nodes"),
    [
        (VfioMode.AUTO, ["/dev/vfio/devices/vfio2"]),
        (VfioMode.IOMMUFD, ["/dev/vfio/devices/vfio2"]),
        (VfioMode.LEGACY, ["/dev/vfio/93"]),
    ],
)
def test_a_gpu_is_never_listed_by_both_of_its_nodes(tmp_path: Path, mode: VfioMode, nodes: list[str]) -> None:
    # facts/field-problems.md, row 9: Kata would plug it twice
    with FakeKernel(tmp_path, vfio_cdevs=True) as kernel:
        add_two_gpus(kernel)
        write(kernel, Settings(Naming(vfio_mode=mode)))
        names = resolved(kernel)
        assert names["nvidia.com/pgpu=93"] == nodes
        assert {len(of_one) for of_one in names.values()} == {1}, "the companion's cdev is not listed"
        assert ("nvidia.com/pgpu=vfio2" in names) == (mode is not VfioMode.LEGACY)
        text = files(kernel)[PGPU]
        assert "/dev/vfio/vfio\n" not in text
        assert "/dev/iommu" not in text


def test_the_cdevs_of_a_shared_group_are_one_device(tmp_path: Path) -> None:
    # facts/field-problems.md, rows 7 and 9
    with build("shared-group", tmp_path, drivers=AllBound(), vfio_cdevs=True) as kernel:
        write(kernel)
        both = ["/dev/vfio/devices/vfio0", "/dev/vfio/devices/vfio1"]
        assert resolved(kernel) == {
            f"nvidia.com/pgpu={name}": both
            for name in ("0", "1", "12", "0000:3d:00.0", "0000:3e:00.0", "vfio0", "vfio1")
        }


def test_a_dgx_on_a_kernel_with_cdevs_keeps_the_groups_as_names(tmp_path: Path) -> None:
    # DESIGN, section 3: the id is the group's number, legacy or IOMMUFD
    with build("dgx-h100", tmp_path, drivers=AllBound(), vfio_cdevs=True) as kernel:
        write(kernel)
        names = resolved(kernel)
        cdev = kernel.sysfs().pci_device(kernel.node().scan().gpus[0].address).vfio_cdev
        assert names["nvidia.com/pgpu=17"] == names[f"nvidia.com/pgpu={cdev}"] == [f"/dev/vfio/devices/{cdev}"]
        assert sum(name.startswith("nvidia.com/pgpu=") for name in names) == 3 * 8


def test_the_mere_existence_of_dev_iommu_decides_nothing(kernel: FakeKernel) -> None:
    # facts/field-problems.md, row 10
    (kernel.host.root / "dev/iommu").touch()
    write(kernel)
    assert resolved(kernel)["nvidia.com/pgpu=65"] == ["/dev/vfio/65"]


def test_iommufd_without_cdevs_leaves_the_devices_out_and_says_what_to_do(kernel: FakeKernel) -> None:
    keeper = SpecKeeper(kernel.node(), Settings(Naming(vfio_mode=VfioMode.IOMMUFD)))
    assert keeper.write().steps == ()
    problem = str(keeper.devices()[0].problems[0])
    assert problem.startswith(f"{GPU} has no VFIO device node; use a kernel with CONFIG_VFIO_DEVICE_CDEV")


# --- who is listed


def test_a_gpu_that_is_not_bound_is_not_listed_and_the_others_are(kernel: FakeKernel) -> None:
    kernel.add_device(gpu("0000:0a:00.0", group=3), driver="nvidia")
    write(kernel)
    assert "nvidia.com/pgpu=3" not in resolved(kernel)
    assert resolved(kernel)["nvidia.com/pgpu=65"] == ["/dev/vfio/65"]


def test_a_group_that_a_foreign_device_holds_up_is_not_listed(kernel: FakeKernel) -> None:
    # facts/field-problems.md, row 6
    kernel.add_device(other("0000:3c:00.0", MELLANOX, 0x1021, CLASS_NIC, group=65), driver="mlx5_core")
    write(kernel)
    names = resolved(kernel)
    assert "nvidia.com/pgpu=65" not in names
    assert names["nvidia.com/pgpu=93"] == ["/dev/vfio/93"]


def test_a_virtual_function_is_no_gpu(kernel: FakeKernel) -> None:
    # facts/field-problems.md, row 40
    card = PciAddress.parse(GPU)
    kernel.add_device(replace(gpu("0000:3b:00.4", group=66), physical_function=card), driver="vfio-pci")
    write(kernel)
    assert files(kernel) == {PGPU: TWO_GPUS}


def test_a_gpu_in_a_vm_stays_listed_and_the_file_as_it_is(kernel: FakeKernel) -> None:
    # facts/field-problems.md, row 14
    write(kernel)
    with kernel.start_vm(GPU, AUDIO):
        assert write(kernel) == []
        assert files(kernel) == {PGPU: TWO_GPUS}


def test_a_device_that_cannot_be_read_does_not_keep_the_others_out(kernel: FakeKernel) -> None:
    # facts/field-problems.md, row 21
    attribute = kernel.host.root / "sys/bus/pci/devices" / OTHER_GPU / "class"
    attribute.unlink()  # only root could write to it
    attribute.write_text("\n")
    write(kernel)
    assert {"nvidia.com/pgpu=65", "nvidia.com/pgpu=0"} <= set(resolved(kernel))
    assert "nvidia.com/pgpu=93" not in resolved(kernel)


# --- further names


def test_an_index_that_is_any_groups_number_is_no_name(kernel: FakeKernel) -> None:
    # facts/field-problems.md, row 43: the group need not be a GPU's
    kernel.add_device(other("0000:0a:00.0", MELLANOX, 0x1021, CLASS_NIC, group=1))
    write(kernel)
    names = set(resolved(kernel))
    assert "nvidia.com/pgpu=0" in names
    assert "nvidia.com/pgpu=1" not in names


def test_an_index_does_not_pass_to_another_gpu_when_one_disappears(kernel: FakeKernel) -> None:
    # facts/field-problems.md, row 43
    keeper = SpecKeeper(kernel.node(), Settings())
    keeper.write()
    kernel.unplug(GPU, whole_slot=True)
    keeper.write()
    assert resolved(kernel) == {f"nvidia.com/pgpu={name}": ["/dev/vfio/93"] for name in ("1", "93", OTHER_GPU)}


def test_the_name_of_a_cdev_does_not_pass_to_another_gpu_when_one_disappears(tmp_path: Path) -> None:
    # facts/field-problems.md, row 43: N of vfioN is handed out again
    with FakeKernel(tmp_path, vfio_cdevs=True) as kernel:
        add_two_gpus(kernel)
        keeper = SpecKeeper(kernel.node(), Settings())
        keeper.write()
        assert resolved(kernel)["nvidia.com/pgpu=vfio0"] == ["/dev/vfio/devices/vfio0"]
        kernel.unplug(GPU, whole_slot=True)
        sysfs = kernel.sysfs()
        other_gpu = sysfs.pci_device(kernel.addresses[-1]).address
        sysfs.set_driver_override(other_gpu, "vfio-pci")
        sysfs.unbind(other_gpu, "vfio-pci", 10)
        sysfs.bind(other_gpu, "vfio-pci")
        keeper.write()
        assert resolved(kernel)["nvidia.com/pgpu=93"] == ["/dev/vfio/devices/vfio0"]
        assert "nvidia.com/pgpu=vfio0" not in resolved(kernel)
