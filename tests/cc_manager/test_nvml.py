"""What the NVIDIA driver says through NVML: asked only where it holds a GPU, shown beside BAR0, never by the daemon.

NVML cannot be had without a GPU: its functions are replaced, under the library's own names, errors and structures. The
values are those seen on a real H200 (facts, section 6).
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest
from pytest_mock import MockerFixture

from cc_manager.cli import cli
from cc_manager.mode import ModeBits
from cc_manager.nvml import NvmlAnswer, ask_nvml
from cc_manager.observation import NvmlState
from nodelib.cli import run_command
from nodelib.pci import PciAddress, PciDevice
from tests.cc_manager.simulated import CcNode

GPU, OTHER = PciAddress(0, 0x1B, 0, 0), PciAddress(0, 0x1C, 0, 0)
Captured = pytest.CaptureFixture[str]


def held(address: PciAddress = GPU, driver: str | None = "nvidia") -> PciDevice:
    return PciDevice(address, 0x10DE, 0x2335, 0x030200, driver=driver)


class Nvml:
    """The driver's side; what a test sets is what it answers."""

    def __init__(self, mocker: MockerFixture) -> None:
        self.capable, self.cc, self.devtools, self.multi_gpu, self.ready = 1, 0, 0, 0, 0
        self.is_old = False
        self.known = {str(GPU), str(OTHER)}
        self.opened = 0
        self.begun = 0
        for name, answer in (
            ("nvmlInit", self._begin),
            ("nvmlShutdown", self._end),
            ("nvmlSystemGetConfComputeCapabilities", lambda: SimpleNamespace(cpuCaps=0, gpusCaps=self.capable)),
            ("nvmlSystemGetConfComputeState", self._state),
            ("nvmlSystemGetConfComputeSettings", self._settings),
            ("nvmlSystemGetConfComputeGpusReadyState", lambda: self.ready),
            ("nvmlDeviceGetHandleByPciBusId", self._handle),
        ):
            mocker.patch.object(pynvml, name, answer)

    def _begin(self) -> None:
        self.begun += 1
        self.opened += 1

    def _end(self) -> None:
        self.opened -= 1

    def _state(self) -> SimpleNamespace:
        assert self.opened == 1
        return SimpleNamespace(environment=0, ccFeature=self.cc, devToolsMode=self.devtools)

    def _settings(self, settings: SimpleNamespace) -> int:
        if self.is_old:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        settings.multiGpuMode = self.multi_gpu
        return int(pynvml.NVML_SUCCESS)

    def _handle(self, bus_id: str) -> object:
        if bus_id not in self.known:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return object()


@pytest.fixture
def nvml(mocker: MockerFixture) -> Iterator[Nvml]:
    nvml = Nvml(mocker)
    yield nvml
    assert nvml.opened == 0, "NVML was not shut down: it holds every GPU of the driver open"


# --- the question


def test_the_state_of_a_real_h200(nvml: Nvml) -> None:
    assert ask_nvml([held()]) == NvmlAnswer({GPU: NvmlState(is_capable=True, mode=ModeBits(0), is_ready=False)})


@pytest.mark.parametrize(
    ("cc", "devtools", "multi_gpu", "bits"),
    [(1, 0, 0, ModeBits(1)), (1, 1, 0, ModeBits(3)), (0, 0, 1, ModeBits(0, ppcie=True)), (1, 0, 2, ModeBits(1))],
)
def test_the_mode_comes_from_three_settings(nvml: Nvml, cc: int, devtools: int, multi_gpu: int, bits: ModeBits) -> None:
    nvml.cc, nvml.devtools, nvml.multi_gpu = cc, devtools, multi_gpu
    assert ask_nvml([held()]).states[GPU].mode == bits


def test_a_driver_too_old_for_ppcie_tells_the_rest(nvml: Nvml) -> None:
    nvml.cc, nvml.is_old = 1, True
    assert ask_nvml([held()]).states[GPU].mode == ModeBits(1)


def test_only_gpus_that_the_driver_holds_and_nvml_knows_have_a_state(nvml: Nvml) -> None:
    nvml.known = {str(GPU)}
    third = PciAddress(0, 0x1D, 0, 0)
    assert list(ask_nvml([held(), held(OTHER), held(third, "vfio-pci")]).states) == [GPU]


@pytest.mark.parametrize("driver", ["vfio-pci", None, "nvidia_vgpu_vfio"])
def test_where_the_driver_holds_no_gpu_nvml_is_not_loaded(
    nvml: Nvml, monkeypatch: pytest.MonkeyPatch, driver: str | None
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # an import would fail
    assert ask_nvml([held(driver=driver)]) == NvmlAnswer()
    assert nvml.begun == 0


def test_an_installation_without_the_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert ask_nvml([held()]) == NvmlAnswer(reason="NVML was not asked: install cgpu-cc-manager[nvml]")


def test_a_machine_without_the_drivers_library_is_told_by_nvml_itself(mocker: MockerFixture) -> None:
    mocker.patch.object(pynvml, "nvmlInit", side_effect=pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND))
    assert ask_nvml([held()]).reason == "NVML does not answer (NVML Shared Library Not Found)"


def test_nvml_is_shut_down_after_an_error_too(nvml: Nvml, mocker: MockerFixture) -> None:
    lost = pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
    mocker.patch.object(pynvml, "nvmlSystemGetConfComputeState", side_effect=lost)
    assert ask_nvml([held()]).reason == "NVML does not answer (GPU is lost)"
    assert (nvml.begun, nvml.opened) == (1, 0)


# --- status


@pytest.fixture
def node(tmp_path: Path) -> Iterator[CcNode]:
    """Two GPUs with the NVIDIA driver, on a kernel that lets others map what a driver has claimed."""
    with CcNode(tmp_path, gpus=2, driver="nvidia", real_time=True) as node:
        node.kernel.faults.bar0_is_shared = True
        yield node


def shown(node: CcNode, captured: Captured) -> str:
    captured.readouterr()
    assert run_command(cli, ["status"], obj=node) == 0
    return captured.readouterr().out


def test_status_shows_both_sources_where_both_answer(node: CcNode, nvml: Nvml, capsys: Captured) -> None:
    out = shown(node, capsys)
    assert out.splitlines()[1:3] == [
        "0000:1b:00.0  GPU   H100 SXM5 80GB  nvidia  no    off   -       BAR0, NVML",
        "0000:1c:00.0  GPU   H100 SXM5 80GB  nvidia  no    off   -       BAR0, NVML",
    ]
    text = " ".join(out.split())
    assert "0000:1b:00.0 and 1 more: driver nvidia holds it; bind it first" in text
    assert "NVML says: capable, mode off" in text
    assert "accepting work" not in text  # which is told of any GPU with CC off, and means nothing there


def test_a_difference_between_the_sources_is_warned_of(node: CcNode, nvml: Nvml, capsys: Captured) -> None:
    nvml.cc = 1
    text = " ".join(shown(node, capsys).split())
    assert "0000:1b:00.0 and 1 more: warning: BAR0 says off, NVML says on" in text
    assert "NVML says: capable, mode on, not accepting work" in text


def test_status_writes_nothing_to_a_gpu_of_the_driver(node: CcNode, nvml: Nvml, capsys: Captured) -> None:
    written: list[int] = []
    node.on_access.append(lambda _address, offset, value: written.append(offset) if value is not None else None)
    shown(node, capsys)
    assert (written, node.kernel.writes) == ([], [])


@pytest.mark.parametrize("why", ["lockdown", "the driver owns it"])
def test_where_bar0_is_closed_nvml_alone_is_shown(node: CcNode, nvml: Nvml, capsys: Captured, why: str) -> None:
    nvml.cc = 1
    if why == "lockdown":
        node.kernel.set_lockdown("integrity")
    else:
        node.kernel.faults.bar0_is_shared = False
    assert shown(node, capsys).splitlines()[1].endswith("no    on    -       NVML")


def test_where_nvml_does_not_answer_bar0_alone_is_shown_and_why(
    node: CcNode, mocker: MockerFixture, capsys: Captured
) -> None:
    mocker.patch.object(pynvml, "nvmlInit", side_effect=pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED))
    out = shown(node, capsys)
    assert out.splitlines()[1].endswith("no    off   -       BAR0")
    assert "NVML does not answer (Driver Not Loaded)" in out


def test_set_and_the_daemon_never_touch_nvml(tmp_path: Path, nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    (tmp_path / "held").mkdir()
    with CcNode(
        tmp_path / "held", gpus=1, driver="nvidia", real_time=True, labels={"nvidia.com/cc.mode": "on"}
    ) as node:
        assert not node.manager().round().ready
        assert run_command(cli, ["set", "on"], obj=node) == 1
        assert run_command(cli, ["set", "on", "--dry-run"], obj=node) == 0
        assert node.accesses == [0]
    assert nvml.begun == 0
