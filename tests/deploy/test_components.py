"""What each component adds to base, and nothing else."""

import contextlib
from pathlib import Path

import pytest

from nodelib.event_reasons import EventReason
from nodelib.events import EventPoster
from nodelib.kube import ApiAccess, Kube
from tests.deploy.manifests import AGENTS, agents, deployed, with_component
from tests.deploy.rights import rights_of
from tests.deploy.test_commands import group, variables
from tests.fakes.kube.api import KubeApi

POSTERS = tuple(
    agent
    for agent in AGENTS
    if agent != "cc-manager" and "NODE_NAME" in {n for p in group(agent).commands["run"].params for n in variables(p)}
)
"""The agents that can post Events and need the API server for nothing else; they must be told their node's name."""


def test_events_are_for_exactly_the_agents_that_post_them(tmp_path: Path) -> None:
    objects = with_component("events", tmp_path)
    with_events = agents(objects)
    for agent in set(AGENTS) - {"cc-manager"}:
        token, base = with_events[agent].pod["automountServiceAccountToken"], agents()[agent]
        assert token is (agent in POSTERS), agent
        assert base.pod["automountServiceAccountToken"] is False
        assert ("NODE_NAME" in with_events[agent].environment()) is (agent in POSTERS)
        assert rights_of(objects, agent) == ({("create", "events", "default")} if agent in POSTERS else set())


@pytest.mark.parametrize("agent", POSTERS)
def test_with_events_the_api_server_takes_them_and_without_it_refuses(agent: str, tmp_path: Path) -> None:
    for objects, taken in ((with_component("events", tmp_path), 1), (deployed(), 0)):
        with KubeApi("node-1") as api:
            api.allow = rights_of(objects, agent)
            post_one(api, agent)
            assert [request.verb for request in api.requests] == ["create"]
            assert len(api.events) == taken


def post_one(api: KubeApi, agent: str) -> None:
    """One Event, and the API server's answer to it."""
    poster = EventPoster(lambda: Kube(ApiAccess(api.url, token=api.token)), "node-1", agent)
    with contextlib.closing(poster):
        poster.post(EventReason("Something", "For this test."), "something happened")
        api.wait_until(lambda: len(api.requests) == 1)


def test_selinux_changes_nothing_but_the_label(tmp_path: Path) -> None:
    labelled = agents(with_component("selinux", tmp_path))
    assert set(labelled) == set(AGENTS)
    for name, agent in labelled.items():
        context = agent.container["securityContext"]
        assert context.pop("seLinuxOptions") == {"type": "spc_t"}
        assert agent.daemonset == agents()[name].daemonset
