"""The real process through a hundred restarts of the kubelet: registered each time, and no larger than before."""

import random
from pathlib import Path

import pytest

from tests.device_plugin.process import process
from tests.device_plugin.small_node import NVSWITCH, PGPU, SmallNode, wait_until
from tests.fakes.kubelet import Kubelet

RESTARTS = 100
WARM_UP = 20
"""After so many the memory allocator has made all the room that it will need."""
PATIENCE_S = 60.0
SLACK_KIB = 2048
"""A leak of 26 KiB in each of the eighty restarts that follow would be more."""


class Size:
    """What a process holds now."""

    def __init__(self, pid: int) -> None:
        status = Path(f"/proc/{pid}/status").read_text()
        self.resident_kib = int(status.partition("VmRSS:")[2].split()[0])
        self.threads = int(status.partition("Threads:")[2].split()[0])
        self.descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))

    def __str__(self) -> str:
        return f"{self.resident_kib} KiB, {self.threads} threads, {self.descriptors} descriptors"


@pytest.mark.timeout(600)
def test_field_1_a_hundred_restarts_of_the_kubelet_at_any_moment_are_each_noticed_and_cost_nothing(
    small: SmallNode, kubelet: Kubelet
) -> None:
    small.add("0000:3b:00.0", 65)
    small.add("0000:5e:00.0", 66)
    small.add("0000:83:00.0", 70, device="0x22a3", pci_class="0x068000")
    chance = random.Random(5)

    def is_back() -> bool:
        return (kubelet.allocatable(PGPU), kubelet.allocatable(NVSWITCH)) == (2, 1)

    with process(small) as running:
        for number in range(RESTARTS):
            if chance.random() < 0.7:  # else in the middle of whatever it is doing
                kubelet.wait_until(is_back, PATIENCE_S)
            if number == WARM_UP:
                before = Size(running.pid)
            kubelet.restart(gap_s=chance.choice((0.0, 0.0, chance.uniform(0, 0.05), chance.uniform(0, 0.4))))
        kubelet.wait_until(is_back, PATIENCE_S)
        wait_until(lambda: Size(running.pid).threads <= before.threads + 2, lambda: f"{before}, {Size(running.pid)}")
        after = Size(running.pid)
        assert after.descriptors <= before.descriptors + 2, f"{before} became {after}"
        assert after.resident_kib <= before.resident_kib + SLACK_KIB, f"{before} became {after}"
        assert "Traceback" not in running.finish()


def test_field_4_the_plugin_dies_and_comes_back_while_every_device_is_given_away_and_nothing_shrinks(
    small: SmallNode, kubelet: Kubelet
) -> None:
    for number in range(8):
        small.add(f"0000:{0x10 + number:02x}:00.0", 40 + number, numa_node=number % 2)
    pods = []
    for round_ in range(5):
        with process(small) as running:
            kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 8, PATIENCE_S)
            assert set(kubelet.devices(PGPU)) == {str(40 + number) for number in range(8)}
            if round_ < 4:
                pods.append(kubelet.admit_pod(f"tenant-{round_}", requests={PGPU: 2}))
                for device in pods[-1].device_ids(PGPU):
                    small.write(f"0000:{0x10 + int(device) - 40:02x}:00.0", "enable", "1")
            if round_ % 2:
                running.finish()
            else:
                running.kill()
        kubelet.wait_until(lambda: kubelet.allocatable(PGPU) == 0, PATIENCE_S)
        assert kubelet.capacity(PGPU) == 8
    assert sorted(device for pod in pods for device in pod.device_ids(PGPU)) == [str(40 + n) for n in range(8)]
    assert kubelet.pods == tuple(sorted(pods, key=lambda pod: pod.name))
