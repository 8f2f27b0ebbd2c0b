"""What the DaemonSets say to the agents, the agents understand."""

import importlib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest

from images.agents import agent as image_of
from images.build import BASE as BASE_IMAGE
from images.build import Order
from nodelib.serving import parse_listen
from tests.deploy.manifests import AGENTS, BASE, COMPONENTS, HOST, OVERLAYS, Agent, agents, deployed, with_component

ROOT = Path(__file__).parents[2]


def group(agent: str) -> click.Group:
    """The agent's real command line."""
    cli = importlib.import_module(f"{agent.replace('-', '_')}.cli").cli
    assert isinstance(cli, click.Group)
    return cli


def parsed(agent: Agent, pod_ip: str = "192.0.2.7") -> Mapping[str, Any]:
    """The settings that the verb would be called with. Raises ClickException if it would not begin."""
    verb, *rest = agent.arguments(pod_ip)
    assert verb == "run"
    environment = agent.environment(pod_ip)
    outside = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    command = group(agent.name).commands[verb]
    before = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(outside | environment)
        with command.make_context(verb, rest) as context:
            return dict(context.params)
    finally:
        os.environ.clear()
        os.environ.update(before)


def deployments(folder: Path) -> dict[str, dict[str, Agent]]:
    """The agents of base, of every overlay, and of base with every component."""
    found = {path.name: agents(deployed(path)) for path in (BASE, *OVERLAYS)}
    for component in COMPONENTS:
        place = folder / component.name
        place.mkdir()
        found[component.name] = agents(with_component(component.name, place))
    return found


def test_every_daemonset_parses_with_the_real_command_line(tmp_path: Path) -> None:
    for place, there in deployments(tmp_path).items():
        for agent in there.values():
            assert parsed(agent)["host_root"] == Path(HOST), f"{place}: {agent.name}"


def test_no_environment_variable_is_set_that_nobody_reads(tmp_path: Path) -> None:
    for place, there in deployments(tmp_path).items():
        for agent in there.values():
            read = {name for option in group(agent.name).commands["run"].params for name in variables(option)}
            used = {
                name for name in agent.environment() if any(f"$({name})" in said for said in agent.container["args"])
            }
            assert set(agent.environment()) <= read | used, f"{place}: {agent.name}"


@pytest.mark.parametrize("pod_ip", ["192.0.2.7", "2001:db8::7"])
@pytest.mark.parametrize("agent", AGENTS)
def test_the_probes_ask_where_the_agent_listens(agent: str, pod_ip: str) -> None:
    found = agents()[agent]
    host, port = parse_listen(parsed(found, pod_ip)["listen"])
    (offered,) = found.container["ports"]
    assert (host, port) == (pod_ip, offered["containerPort"])
    for probe in ("livenessProbe", "readinessProbe"):
        asked = found.container[probe]["httpGet"]
        assert asked == {"path": "/healthz", "port": offered["name"]}


@pytest.mark.parametrize("agent", AGENTS)
def test_the_command_is_one_that_the_package_installs(agent: str) -> None:
    project = tomllib.loads((ROOT / "agents" / agent.replace("-", "_") / "pyproject.toml").read_text())["project"]
    (command,) = agents()[agent].container["command"]
    assert command in project["scripts"]


@pytest.mark.parametrize("agent", AGENTS)
def test_the_image_is_what_make_images_builds(agent: str) -> None:
    order = Order("buildah", BASE_IMAGE, "localhost/cgpu-agents", tag="", platform="", epoch=0, revision="")
    assert agents()[agent].container["image"] == order.name(image_of(agent))
    assert f"make images REGISTRY={order.registry}`" in (BASE / "kustomization.yaml").read_text()


def test_the_device_plugin_waits_for_kata_managers_specs() -> None:
    assert parsed(agents()["device-plugin"])["cdi"] == "require"


def test_an_argument_that_the_agent_does_not_know_is_found() -> None:
    agent = agents()["vfio-manager"]
    agent.container["args"].append("--no-such-flag")
    with pytest.raises(click.NoSuchOption):
        parsed(agent)


def variables(option: click.Parameter) -> tuple[str, ...]:
    """The environment variables that set an option."""
    named = option.envvar or ()
    return (named,) if isinstance(named, str) else tuple(named)
