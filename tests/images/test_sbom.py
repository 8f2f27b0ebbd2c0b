"""`make sbom`: what it says is what the lock lets into the image."""

import json
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from images.agents import NAMES, agent
from images.lock import pinned
from images.sbom import HASH_PROPERTY, hashes, text

EPOCH = 1_000_000_000


def bill(name: str) -> dict[str, Any]:
    return dict(json.loads(text(agent(name), EPOCH)))


@pytest.mark.parametrize("name", NAMES)
def test_it_holds_the_agent_nodelib_and_every_package_of_the_lock_with_its_version(name: str) -> None:
    one = agent(name)
    said = bill(name)
    versions = {component["name"]: component["version"] for component in said["components"]}
    assert versions == {**pinned(one.lock.read_text()), "cgpu-nodelib": one.version}
    assert said["metadata"]["component"]["name"] == one.distribution
    assert said["metadata"]["timestamp"] == "2001-09-09T01:46:40+00:00"


@pytest.mark.parametrize("name", NAMES)
def test_every_hash_of_the_lock_is_in_it_and_no_other(name: str) -> None:
    lock = agent(name).lock.read_text()
    found = {
        component["name"]: sorted(one["value"] for one in component["properties"] if one["name"] == HASH_PROPERTY)
        for component in bill(name)["components"]
        if "properties" in component
    }
    assert found == {package: sorted(sums) for package, sums in hashes(lock).items()}
    assert sum(map(len, found.values())) == lock.count("--hash=sha256:")


@pytest.mark.parametrize("name", NAMES)
def test_it_is_cyclonedx(name: str) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text(agent(name), EPOCH)) is None


def test_others_packages_have_a_licence_and_a_package_url_and_ours_no_url() -> None:
    for component in bill("device_plugin")["components"]:
        ours = component["name"].startswith("cgpu-")
        assert ("purl" in component, "licenses" in component) == (not ours, not ours), component["name"]


def test_it_says_who_needs_whom() -> None:
    edges = {
        entry["ref"].partition("==")[0]: entry.get("dependsOn", []) for entry in bill("device_plugin")["dependencies"]
    }
    assert [ref.partition("==")[0] for ref in edges["cgpu-device-plugin"]] == ["cgpu-nodelib"]
    assert {"click", "grpcio", "pyudev"} <= {ref.partition("==")[0] for ref in edges["cgpu-nodelib"]}
    assert [ref.partition("==")[0] for ref in edges["grpcio"]] == ["typing-extensions"]


def test_equal_locks_give_equal_bytes_and_another_lock_another_serial_number() -> None:
    assert text(agent("cc_manager"), EPOCH) == text(agent("cc_manager"), EPOCH)
    assert len({bill(name)["serialNumber"] for name in NAMES}) == len(NAMES)
