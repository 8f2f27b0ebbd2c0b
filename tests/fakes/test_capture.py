"""The replay of a captured tree is that tree, and answers writes."""

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodelib.errors import DeviceError
from nodelib.pci import PciAddress
from tests.fakes.capture import Capture, CapturedFunction
from tests.fakes.kernel import FakeKernel
from tests.fakes.topologies import H200_VM, build

H200 = PciAddress.parse("0000:00:06.0")


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[FakeKernel]:
    with build("h200-vm", tmp_path) as kernel:
        yield kernel


def test_every_attribute_link_and_folder_is_there_as_it_was(kernel: FakeKernel) -> None:
    capture = Capture(H200_VM)
    assert set(kernel.addresses) == set(capture.functions)
    for address, function in capture.functions.items():
        folder = kernel.host.root / f"sys/bus/pci/devices/{address}"
        assert f"/{folder.resolve().relative_to(kernel.host.root)}" == function["realpath"]
        assert {path.name for path in folder.iterdir()} == {
            *function["attrs"],
            *function["links"],
            *function["dirs"],
        }
        for name, attribute in function["attrs"].items():
            content = base64.b64decode(attribute["b64"]) if "b64" in attribute else attribute.get("text", "").encode()
            mode = (folder / name).stat().st_mode & 0o777
            assert mode == int(attribute["mode"], 8), f"{address}/{name}"
            if os.access(folder / name, os.R_OK):  # some are only written, and not everybody is root
                assert (folder / name).read_bytes() == content, f"{address}/{name}"
        for name, target in function["links"].items():
            assert str((folder / name).readlink()) == target
        assert all((folder / name).is_dir() for name in function["dirs"])


def test_the_drivers_and_what_they_hold_are_there(kernel: FakeKernel) -> None:
    drivers = kernel.host.root / "sys/bus/pci/drivers"
    assert tuple(sorted(path.name for path in drivers.iterdir())) == Capture(H200_VM).drivers
    assert (drivers / f"nvidia/{H200}").resolve() == (kernel.host.root / f"sys/bus/pci/devices/{H200}").resolve()


def test_a_replayed_device_answers_writes(kernel: FakeKernel) -> None:
    sysfs = kernel.sysfs()
    sysfs.set_driver_override(H200, "vfio-pci")
    sysfs.unbind(H200, "nvidia", 10)
    assert sysfs.pci_device(H200).driver is None
    with pytest.raises(DeviceError, match="No such file"):
        sysfs.bind(H200, "vfio-pci")  # the machine had no such driver
    sysfs.set_driver_override(H200, None)
    sysfs.probe(H200)
    assert sysfs.pci_device(H200).driver == "nvidia"


def test_an_attribute_that_could_not_be_read_cannot_be_read(tmp_path: Path) -> None:
    content = json.loads(H200_VM.read_text())
    function: CapturedFunction = content[str(H200)]
    function["attrs"]["numa_node"] = {"mode": "0o644", "errno": 5}
    changed = tmp_path / "capture.json"
    changed.write_text(json.dumps(content))
    with FakeKernel(tmp_path / "root", vfio_groups=False) as kernel:
        Capture(changed).replay(kernel)
        device = kernel.sysfs().pci_device(H200)
        assert device.numa_node is None
        assert [fault.split()[0] for fault in device.faults] == ["numa_node"]
