"""What the NVIDIA driver says of the GPUs that it holds, through NVML: for `status` and `doctor`, for nobody else.

NVML opens every GPU of the driver, which keeps them from being unbound meanwhile: it is loaded only where the driver
holds one, and shut down after the question. It can tell the mode, not change it. Facts, section 6.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cc_manager.mode import ModeBits
from cc_manager.observation import NVIDIA_DRIVER, NvmlState
from nodelib.pci import PciAddress, PciDevice

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NvmlAnswer:
    """The state of each GPU that NVML knows, or why nobody could be asked."""

    states: Mapping[PciAddress, NvmlState] = field(default_factory=dict)
    reason: str = ""
    """Empty where there was nobody to ask about, too."""


def ask_nvml(devices: Collection[PciDevice]) -> NvmlAnswer:
    """The state of those of *devices* that the NVIDIA driver holds; NVML is not loaded if there is none."""
    held = [device.address for device in devices if device.driver == NVIDIA_DRIVER]
    if not held:
        return NvmlAnswer()
    try:
        import pynvml  # only here: it looks for the driver's library
    except ImportError:
        return NvmlAnswer(reason="NVML was not asked: install cgpu-cc-manager[nvml]")
    try:
        with _session(pynvml):
            state = _state(pynvml)
            return NvmlAnswer({address: state for address in held if _knows(pynvml, address)})
    except pynvml.NVMLError as error:
        return NvmlAnswer(reason=f"NVML does not answer ({error})")


@contextmanager
def _session(pynvml: Any) -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _state(pynvml: Any) -> NvmlState:
    """NVML's confidential-computing state is one for all GPUs of the driver."""
    capable = _asked(pynvml, lambda: pynvml.nvmlSystemGetConfComputeCapabilities().gpusCaps)
    ready = _asked(pynvml, pynvml.nvmlSystemGetConfComputeGpusReadyState)
    return NvmlState(
        is_capable=None if capable is None else capable == pynvml.NVML_CC_SYSTEM_GPUS_CC_CAPABLE,
        mode=_mode(pynvml),
        is_ready=None if ready is None else ready == pynvml.NVML_CC_ACCEPTING_CLIENT_REQUESTS_TRUE,
    )


def _mode(pynvml: Any) -> ModeBits | None:
    state = _asked(pynvml, pynvml.nvmlSystemGetConfComputeState)
    if state is None:
        return None
    cc = int(bool(state.ccFeature)) | int(bool(state.devToolsMode)) << 1
    return ModeBits(cc, ppcie=_multi_gpu_mode(pynvml) == pynvml.NVML_CC_SYSTEM_MULTIGPU_PROTECTED_PCIE)


def _multi_gpu_mode(pynvml: Any) -> int | None:
    """None where the driver is too old to tell; this function alone returns its error instead of raising it."""
    settings = pynvml.c_nvmlSystemConfComputeSettings_v1_t()
    code = _asked(pynvml, lambda: pynvml.nvmlSystemGetConfComputeSettings(settings))
    return int(settings.multiGpuMode) if code == pynvml.NVML_SUCCESS else None


def _knows(pynvml: Any, address: PciAddress) -> bool:
    with suppress(pynvml.NVMLError):
        pynvml.nvmlDeviceGetHandleByPciBusId(str(address))
        return True
    return False


def _asked(pynvml: Any, question: Callable[[], T]) -> T | None:
    """The answer, None where this driver or GPU does not have it."""
    try:
        return question()
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound):
        return None
