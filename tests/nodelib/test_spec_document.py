"""Reading what strangers wrote: never a crash, never all of the memory, one sentence. Issue 4, bad input."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodelib.errors import InvalidValue
from nodelib.spec_document import load_document
from tests.nodelib.samples import PROPERTY


def refusal(content: bytes) -> str:
    with pytest.raises(InvalidValue) as caught:
        load_document(content)
    return str(caught.value)


def test_yaml_and_json_are_read() -> None:
    assert load_document(b"a: [1, {b: 'x'}]\n") == {"a": [1, {"b": "x"}]}
    assert load_document(b'{\n\t"a":\t[1, {"b": "x"}]\n}\n') == {"a": [1, {"b": "x"}]}, "indented with tabs"
    assert load_document(b"a: &x {b: 1}\nc: *x\n") == {"a": {"b": 1}, "c": {"b": 1}}
    assert load_document(b"") is None


@pytest.mark.parametrize("opening", [b"[", b"{a: ", b"- "], ids=["lists", "mappings", "block lists"])
def test_nesting_without_end_does_not_end_the_process(opening: bytes) -> None:
    """libyaml would overrun the stack, which no `except` catches: so in a process of its own."""
    script = "import sys; from tests.nodelib.test_spec_document import refusal; print(refusal(sys.stdin.buffer.read()))"
    done = subprocess.run(
        [sys.executable, "-c", script], input=opening * 200_000, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == "line 1: nested more than 64 levels deep\n"


def test_a_few_lines_of_aliases_that_stand_for_gigabytes_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "its aliases stand for more than any spec holds" in refusal("\n".join(lines).encode())


def test_a_chain_of_aliases_is_as_deep_as_nesting() -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 2000))]
    assert "its aliases stand for more than any spec holds" in refusal("\n".join(lines).encode())


@pytest.mark.parametrize("text", [b"&a [*a]", b"a: &x {b: *x}"])
def test_what_holds_itself_is_refused(text: bytes) -> None:
    assert "it holds itself" in refusal(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"a: 1\nb: 2\na: 3\n", "line 3: the key 'a' stands there twice"),  # seen with podman 4.3: it refuses the file
        (b'{"a": 1, "a": 2}', "line 1: the key 'a' stands there twice"),
        (b"a: &x {b: 1}\nc: {<<: *x}\n", "line 2: merge keys (<<) are not for specs"),
        (b"? [a]\n: b\n", "line 1: neither JSON nor YAML (a key that is no text)"),
        (b"a: [\n", "neither JSON nor YAML"),
        (b"a: b\n---\nc: d\n", "neither JSON nor YAML"),
        (b"\xff\xfe\xfa", "neither JSON nor YAML"),
        (b"x" * (5 << 20), "larger than 4 MiB, which no spec is"),
    ],
)
def test_what_runtimes_refuse_is_told_with_its_line(text: bytes, words: str) -> None:
    assert words in refusal(text)


@PROPERTY
@given(st.binary(max_size=60) | st.text("[]{}&*a: -\n'\"#!<?", max_size=40).map(str.encode))
def test_whatever_stands_in_a_file_it_is_a_document_or_one_sentence(content: bytes) -> None:
    fault = ""
    try:
        load_document(content)
    except InvalidValue as error:
        fault = str(error)
    assert "\n" not in fault
