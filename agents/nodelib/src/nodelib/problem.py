"""One thing that is wrong on the node, in words a person can act on."""

from dataclasses import dataclass

from nodelib.pci import PciAddress


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong and what to do about it."""

    code: str
    """Short and stable, for metrics and scripts: `foreign-driver`."""
    text: str
    """One clause without a full stop, naming the address or path."""
    remedy: str = ""
    """What to do, as an instruction; empty where there is nothing to do but wait."""

    def __str__(self) -> str:
        return f"{self.text}; {self.remedy}" if self.remedy else self.text


@dataclass(frozen=True, slots=True)
class Refusal:
    """A device that is left alone although it should be changed, and why."""

    address: PciAddress
    problem: Problem

    def __str__(self) -> str:
        return f"{self.address}: {self.problem}"
