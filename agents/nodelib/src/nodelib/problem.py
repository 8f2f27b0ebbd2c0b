"""One thing that is wrong on the node, in words a person can act on."""

from dataclasses import dataclass


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
