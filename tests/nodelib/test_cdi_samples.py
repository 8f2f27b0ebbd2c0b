"""Our parser, a JSON schema and the samples in tests/data agree on what a CDI spec is. Issue 4, proof."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given

from nodelib.cdi import CdiSpec
from nodelib.cdi_parse import VERSIONS, lowest_version
from nodelib.spec_files import SpecFormat, parse_file, spec_text
from tests.data.cdi_samples import BAD, BEYOND_A_SCHEMA, FOLDER, GOOD
from tests.nodelib.samples import PROPERTY
from tests.nodelib.test_cdi_parse import spoilt_documents

SCHEMA = jsonschema.Draft202012Validator(json.loads((FOLDER / "schema.json").read_text()))


def read(content: bytes) -> object:
    """JSON or YAML by the libraries alone."""
    return json.loads(content) if content.startswith(b"{") else yaml.safe_load(content)


def fits_schema(content: bytes) -> bool:
    try:
        return bool(SCHEMA.is_valid(read(content)))
    except (yaml.YAMLError, ValueError):
        return False


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA.schema)


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.name)
def test_a_good_spec_is_read_and_fits_the_schema(path: Path) -> None:
    file = parse_file(path, path.read_bytes())
    assert file.spec is not None, file.fault
    assert fits_schema(path.read_bytes())


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.name)
def test_a_bad_spec_is_refused_by_us_and_by_the_schema_as_far_as_a_schema_goes(path: Path) -> None:
    file = parse_file(path, path.read_bytes())
    assert file.spec is None
    assert file.fault.startswith(f"{path}: ")
    assert fits_schema(path.read_bytes()) is (path.name in BEYOND_A_SCHEMA)


@pytest.mark.parametrize("form", SpecFormat)
@pytest.mark.parametrize("path", [path for path in GOOD if path.name.startswith("ours")], ids=lambda path: path.name)
def test_what_we_write_fits_the_schema(path: Path, form: SpecFormat) -> None:
    spec = parse_file(path, path.read_bytes()).spec
    assert isinstance(spec, CdiSpec)
    assert fits_schema(spec_text(spec, form))
    assert path.read_bytes() in {spec_text(spec, form) for form in SpecFormat}


@PROPERTY
@given(spoilt_documents())
def test_what_the_schema_refuses_we_refuse_too(document: object) -> None:
    """But for `null`, which the runtimes read as absent, and numbers where they make a text of them."""
    content = json.dumps(document).encode()
    if parse_file(Path("x.json"), content).spec is not None:
        lenient = _without_nulls(document)
        errors = [error.message for error in SCHEMA.iter_errors(lenient)]
        assert all("is not of type 'string'" in message for message in errors), errors


def _without_nulls(value: object) -> object:
    match value:
        case dict():
            return {key: _without_nulls(item) for key, item in value.items() if item is not None}
        case list():
            return [_without_nulls(item) for item in value]
        case _:
            return value


@pytest.mark.parametrize(
    ("name", "lowest"), [("oldest.yaml", "0.3.0"), ("ours-legacy.yaml", "0.5.0"), ("tabs.json", "0.6.0")]
)
def test_the_lowest_version_that_a_spec_needs(name: str, lowest: str) -> None:
    assert lowest_version(read((FOLDER / "good" / name).read_bytes())) == lowest


def test_everything_needs_the_newest_and_what_is_no_spec_needs_none() -> None:
    assert lowest_version(yaml.safe_load((FOLDER / "good/everything.yaml").read_text())) == VERSIONS[-1]
    assert lowest_version({"cdiVersion": "0.5.0"}) is None
    assert lowest_version([]) is None
