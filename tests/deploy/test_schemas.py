"""Every manifest is what the API servers of several Kubernetes versions take, field by field."""

import json
from copy import deepcopy
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest

from tests.deploy.manifests import COMPONENTS, agents, everything, with_component
from tests.deploy.render import Object

OLDEST = "1.30"
"""The first with ValidatingAdmissionPolicy v1 and with the node's name in a pod's token."""
VERSIONS = (OLDEST, "1.32", "1.34", "1.37")
CRDS = Path(__file__).parent / "crds"
"""Of kinds that other projects define: the part of their schemas that deploy/ uses, closed against any other field."""


def validate(item: Object, version: str) -> None:
    """Raises ValidationError for a field that is wrong or that the version does not know."""
    schema = CRDS / f"{item['kind']}.json"
    if schema.exists():
        jsonschema.Draft202012Validator(json.loads(schema.read_text())).validate(item)
    else:
        kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_valid(version: str) -> None:
    wrong = {}
    for place, item in everything():
        try:
            validate(item, version)
        except jsonschema.ValidationError as error:
            wrong[place] = f"{list(error.path)}: {error.message}"
    assert wrong == {}


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda folder: folder.name)
def test_every_manifest_is_valid_with_a_component(component: Path, tmp_path: Path) -> None:
    for item in with_component(component.name, tmp_path):
        validate(item, OLDEST)


def test_a_field_that_nobody_knows_is_refused() -> None:
    """Without which the tests above would prove little: a misspelt right is no right, and no protection."""
    daemonset = deepcopy(agents()["vfio-manager"].daemonset)
    context = daemonset["spec"]["template"]["spec"]["containers"][0]["securityContext"]
    context["readOnlyRootFileSystem"] = context.pop("readOnlyRootFilesystem")
    with pytest.raises(jsonschema.ValidationError, match="readOnlyRootFileSystem"):
        validate(daemonset, OLDEST)


@pytest.mark.parametrize("schema", sorted(CRDS.glob("*.json")), ids=lambda path: path.stem)
def test_our_schemas_are_schemas_and_closed(schema: Path) -> None:
    document = json.loads(schema.read_text())
    jsonschema.Draft202012Validator.check_schema(document)
    example = next(item for _, item in everything() if item["kind"] == schema.stem)
    with pytest.raises(jsonschema.ValidationError):
        validate({**example, "spec": {**example["spec"], "unknown": 1}}, OLDEST)
