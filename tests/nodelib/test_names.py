"""Names that leave the node."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodelib import pciids
from nodelib.errors import InvalidValue
from nodelib.names import ResourceName, alias_problem, is_class, is_device_name, is_vendor, model_alias
from tests.nodelib.samples import PROPERTY

LETTERS = string.ascii_letters
ALNUM = LETTERS + string.digits
NEAR_MISSES = ALNUM[:4] + "19-_.:/ ٣é\n"
"""Few enough characters that a random text is often almost a name."""


def is_name(text: str, first: str, inner: str) -> bool:
    """The CDI specification's shape of names, written without a regular expression."""
    return bool(text) and text[0] in first and text[-1] in ALNUM and all(c in ALNUM + inner for c in text)


# CDI: facts/kubelet-cdi-kata-contract.md, section CDI.


@PROPERTY
@given(st.text(NEAR_MISSES, max_size=6))
def test_a_cdi_vendor_begins_with_a_letter_and_ends_with_a_letter_or_digit(text: str) -> None:
    assert is_vendor(text) is is_name(text, LETTERS, "_-.")


@PROPERTY
@given(st.text(NEAR_MISSES, max_size=6))
def test_a_cdi_class_is_the_same_without_a_dot(text: str) -> None:
    assert is_class(text) is is_name(text, LETTERS, "_-")


@PROPERTY
@given(st.text(NEAR_MISSES, max_size=6))
def test_a_cdi_class_may_hold_dots_from_version_0_6_0_on(text: str) -> None:
    assert is_class(text, dots=True) is is_name(text, LETTERS, "_-.")


@PROPERTY
@given(st.text(NEAR_MISSES, max_size=6))
def test_a_cdi_device_name_may_begin_with_a_digit_and_hold_colons(text: str) -> None:
    assert is_device_name(text) is is_name(text, ALNUM, "_-.:")


@pytest.mark.parametrize("name", ["65", "vfio3", "0000:3b:00.0", "0"])
def test_all_that_we_call_a_device_is_a_cdi_device_name(name: str) -> None:
    assert is_device_name(name)


# Resource names: the kubelet's rules and CDI's together, since the CDI kind is the same text.


@pytest.mark.parametrize("text", ["nvidia.com/pgpu", "nvidia.com/GH100_H200_SXM_141GB", "example.org/a"])
def test_a_resource_name_is_read_back_from_its_text(text: str) -> None:
    name = ResourceName.parse(text)
    assert str(name) == name.cdi_kind == text


@PROPERTY
@given(
    domain=st.text("az09.-A_", max_size=8),
    slash=st.sampled_from(["/", "", "//"]),
    name=st.text("aZ09_.- /é", max_size=8) | st.just("a" * 64),
)
def test_whatever_is_taken_for_a_resource_name_is_one_for_the_kubelet_and_for_cdi(
    domain: str, slash: str, name: str
) -> None:
    try:
        resource = ResourceName.parse(f"{domain}{slash}{name}")
    except InvalidValue:
        return
    # Kubernetes: a DNS subdomain, then at most 63 of letters, digits, - _ . with a letter or digit at both ends.
    assert all(re.fullmatch(r"[a-z0-9-]+", label) and label.strip("-") == label for label in resource.domain.split("."))
    assert is_name(resource.name, ALNUM, "-_.")
    assert len(resource.name) <= 63
    assert is_vendor(resource.domain)
    assert is_class(resource.name)


@pytest.mark.parametrize(
    "text",
    [
        "pgpu",
        "/pgpu",
        "nvidia.com/",
        "nvidia.com/a/b",
        "nvidia.com/1gpu",
        "nvidia.com/p.gpu",
        "nvidia.com/pgpu_",
        "nvidia.com/pg pu",
        "nvidia.com/" + "g" * 64,
        "NVIDIA.com/pgpu",
        "nvidia..com/pgpu",
        "-nvidia.com/pgpu",
        "nvidia.com./pgpu",
        "d" * 254 + "/pgpu",
        "3vidia.com/pgpu",  # a domain for the kubelet, no vendor for CDI
        "nvidia.com/pgpu\n",
        "",
    ],
)
def test_what_is_no_resource_name_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        ResourceName.parse(text)
    assert repr(text) in str(caught.value)


def test_a_domain_of_253_characters_is_the_longest() -> None:
    longest = ".".join(["a" * 63] * 3 + ["b" * 61])
    assert ResourceName.parse(f"{longest}/pgpu").domain == longest
    with pytest.raises(InvalidValue):
        ResourceName.parse(f"{longest}b/pgpu")


def test_an_alias_of_63_characters_is_the_longest() -> None:
    assert alias_problem("g" * 63) is None
    assert "longer than 63" in (alias_problem("g" * 64) or "")


@pytest.mark.parametrize("alias", ["", "1gpu", "_gpu", "gpu-", "p gpu", "p/gpu", "gpü", "p.gpu"])
def test_a_wrong_alias_is_told_what_the_rule_is(alias: str) -> None:
    assert "must begin with a letter" in (alias_problem(alias) or "")


# Model aliases: facts/labels-and-settings.md.


def test_published_names_are_kept_byte_for_byte() -> None:
    assert model_alias("GH100 [H200 SXM 141GB]", 0x2335, "GPU") == "GH100_H200_SXM_141GB"
    assert model_alias(pciids.device_name(0x2335), 0x2335, "GPU") == "GH100_H200_SXM_141GB"


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("GK107 / GK208 [Quadro  410]", "GK107___GK208_QUADRO_410"),  # a run of blanks is one _, a / another
        ("NV5 [Riva TNT2 / Pro 1.1]", "NV5_RIVA_TNT2___PRO_1_1"),
        ("GA100\t\n[A100]", "GA100_A100"),
        ("MCP04 AC'97 Audio", "MCP04_AC97_AUDIO"),
        ("AD102-x [RTX]", "AD102-X_RTX"),
    ],
)
def test_names_are_made_fit_as_existing_clusters_do_it(name: str, alias: str) -> None:
    assert model_alias(name, 0x1234, "GPU") == alias


@pytest.mark.parametrize("name", [None, "", "[]", "3D controller", "_", "X" * 64, "ends with -"])
def test_a_model_without_a_usable_name_is_called_by_its_id(name: str | None) -> None:
    assert model_alias(name, 0x2F0A, "GPU") == "GPU_2F0A"
    assert model_alias(name, 0x22A, "NVSWITCH") == "NVSWITCH_022A"


def test_every_model_of_the_database_has_a_valid_alias() -> None:
    for device, name in pciids.names().items():
        alias = model_alias(name, device, "GPU")
        assert alias_problem(alias) is None, f"{name} -> {alias}"
        assert ResourceName.parse(f"nvidia.com/{alias}").name == alias


@PROPERTY
@given(st.text(max_size=80), st.integers(0, 0xFFFF), st.sampled_from(["GPU", "NVSWITCH"]))
def test_whatever_the_database_says_the_alias_is_valid(name: str, device: int, prefix: str) -> None:
    assert alias_problem(model_alias(name, device, prefix)) is None
