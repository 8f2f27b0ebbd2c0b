"""docs/security.md names exactly the rights that the manifests give, agent by agent."""

import re
from collections import defaultdict
from pathlib import Path

import pytest

from tests.deploy.manifests import AGENTS, Agent, agents, deployed, of_kind
from tests.deploy.rights import rights_of

PAGE = (Path(__file__).parents[2] / "docs/security.md").read_text(encoding="utf-8")


def told(agent: str) -> list[list[str]]:
    """The rows of the agent's table."""
    section = PAGE.partition(f"\n### {agent}\n")[2].partition("\n#")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return rows[2:]


def given(agent: Agent) -> set[str]:
    """The agent's rights in the words of the page."""
    context = agent.container["securityContext"]
    rights = {f"`{name}`" for name in context["capabilities"].get("add", ())}
    rights |= {f"`{m.host_path}` {'read-write' if m.is_writable else 'read-only'}" for m in agent.mounts}
    if context["runAsUser"] == 0:
        rights.add("uid 0")
    if "appArmorProfile" in context:
        rights.add(f"AppArmor {context['appArmorProfile']['type']}")
    verbs = defaultdict(list)
    for verb, resource, *namespace in sorted(rights_of(deployed(), agent.pod["serviceAccountName"])):
        verbs[f"API `{resource}`" + "".join(f" in `{name}`" for name in namespace)].append(verb)
    return rights | {f"{resource}: {', '.join(of_it)}" for resource, of_it in verbs.items()}


@pytest.mark.parametrize("agent", AGENTS)
def test_the_table_has_a_row_for_each_right_and_no_other(agent: str) -> None:
    rows = told(agent)
    assert {row[0] for row in rows} == given(agents()[agent])
    assert len({row[0] for row in rows}) == len(rows)


@pytest.mark.parametrize("agent", AGENTS)
def test_every_row_says_why_and_what_breaks(agent: str) -> None:
    for row in told(agent):
        assert len(row) == 3, row
        assert all(len(cell) > 5 for cell in row[1:]), row


def test_the_objects_that_the_page_names_are_there() -> None:
    named = set(re.findall(r"`(cgpu-agents[\w-]*)`", PAGE))
    there = {item["metadata"]["name"] for item in deployed()}
    assert named <= there
    assert of_kind(deployed(), "ValidatingAdmissionPolicy").keys() <= named


def test_the_files_that_the_page_names_are_there() -> None:
    for name in re.findall(r"`((?:deploy|tests|components)/[\w./-]+)`", PAGE):
        place = f"deploy/{name}" if name.startswith("components") else name
        assert (Path(__file__).parents[2] / place).exists(), name
