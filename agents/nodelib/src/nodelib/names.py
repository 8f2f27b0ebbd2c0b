"""Names that leave the node: resource names, CDI kinds and device names, and what an alias may be.

A name is only ever built through a check, so whoever holds one need not check again. Rules: the Kubernetes
device plugin contract and the CDI specification (its grammar of vendor, class and device name).
"""

import re
from dataclasses import dataclass
from typing import Self

from nodelib.errors import InvalidValue

NVIDIA_DOMAIN = "nvidia.com"
MAX_RESOURCE_NAME_PART = 63

_RESOURCE_PART = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?")
_DOMAIN = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
_VENDOR = re.compile(r"[A-Za-z](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?")
_CLASS = re.compile(r"[A-Za-z](?:[A-Za-z0-9_-]*[A-Za-z0-9])?")
_DEVICE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?")
_BLANKS = re.compile(r"\s+")
_DROPPED = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, order=True, slots=True)
class ResourceName:
    """`domain/name` as the kubelet knows a resource; the CDI kind is the same text."""

    domain: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Self:
        domain, slash, name = text.partition("/")
        # CDI asks for a letter first, which the kubelet does not.
        if not slash or not _DOMAIN.fullmatch(domain) or not is_vendor(domain) or len(domain) > 253:
            raise InvalidValue(f"{text!r} is not a resource name: write domain/name, as in nvidia.com/pgpu")
        if problem := alias_problem(name):
            raise InvalidValue(f"{text!r} cannot be a resource and CDI name: {problem}")
        return cls(domain, name)

    @property
    def cdi_kind(self) -> str:
        """The kind under which the Kata runtime looks the resource's devices up: the same text."""
        return str(self)

    def __str__(self) -> str:
        return f"{self.domain}/{self.name}"


def alias_problem(alias: str) -> str | None:
    """Why *alias* cannot be both the name part of a resource and a CDI class; None if it can."""
    if len(alias) > MAX_RESOURCE_NAME_PART:
        return f"{alias!r} is longer than {MAX_RESOURCE_NAME_PART} characters"
    if not _RESOURCE_PART.fullmatch(alias) or not _CLASS.fullmatch(alias):
        return f"{alias!r} must begin with a letter, end with a letter or digit, and hold only letters, digits, - and _"
    return None


def model_alias(name: str | None, device: int, prefix: str) -> str:
    """The name part of a resource for one model: the database's *name* made fit, else `PREFIX_<hex>`.

    Upper case; `/`, `.` and each run of white space become one `_`; the rest outside letters, digits, `_` and `-`
    goes. `GH100 [H200 SXM 141GB]` is `GH100_H200_SXM_141GB`, byte for byte what existing clusters use.
    """
    upper = (name or "").upper().replace("/", "_").replace(".", "_")
    alias = _DROPPED.sub("", _BLANKS.sub("_", upper))
    return f"{prefix}_{device:04X}" if not alias or alias_problem(alias) else alias


def is_vendor(text: str) -> bool:
    """Whether *text* may stand before the slash of a CDI kind."""
    return _VENDOR.fullmatch(text) is not None


def is_class(text: str, *, dots: bool = False) -> bool:
    """Whether *text* may stand after the slash of a CDI kind; *dots* from CDI 0.6.0 on."""
    return _CLASS.fullmatch(text.replace(".", "-") if dots else text) is not None


def is_device_name(text: str) -> bool:
    """Whether *text* may name a device in a CDI spec."""
    return _DEVICE.fullmatch(text) is not None
