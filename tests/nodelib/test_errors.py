"""The errors and their exit codes."""

import pytest

from nodelib.errors import (
    DeviceBusy,
    DeviceError,
    DeviceGone,
    DeviceHung,
    InvalidValue,
    NodeError,
    NotSupported,
)
from tests.nodelib.samples import at


def test_exit_codes_are_those_that_the_design_promises() -> None:
    """DESIGN section 2: 0 done, 1 failed, 2 wrong usage, 3 not supported on this node."""
    assert NodeError("x").exit_code == 1
    assert InvalidValue("x").exit_code == 2
    assert NotSupported("x").exit_code == 3


@pytest.mark.parametrize("error", [DeviceError, DeviceGone, DeviceBusy, DeviceHung])
def test_an_error_of_a_device_names_its_address_first(error: type[DeviceError]) -> None:
    raised = error(at("3b"), "it is gone")
    assert str(raised) == "0000:3b:00.0: it is gone"
    assert (raised.address, raised.reason, raised.exit_code) == (at("3b"), "it is gone", 1)
