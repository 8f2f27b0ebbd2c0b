"""The options that all agents share."""

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner, Result

from nodelib import settings
from nodelib.errors import InvalidValue
from nodelib.node import Node
from nodelib.pci import PciAddress
from nodelib.settings import AddressType, DaemonSettings, parse_naming
from nodelib.vfio import Naming, VfioMode
from tests.nodelib.samples import Tree, at

pytestmark = pytest.mark.usefixtures("root_logger_as_before")


Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def run(decorator: Decorator, *args: str, obj: object = None, **environment: str) -> tuple[Result, dict[str, object]]:
    """A command with the options of *decorator*, and what it was called with."""
    called: dict[str, object] = {}

    @click.command()
    @decorator
    def command(**kwargs: object) -> None:
        called.update(kwargs)

    return CliRunner().invoke(command, args, obj=obj, env=environment), called


# --- addresses


@click.command()
@click.option("--device", type=AddressType())
def with_device(device: PciAddress) -> None:
    click.echo(repr(device))


@pytest.mark.parametrize("text", ["0000:3b:00.0", "00000000:3B:00.0"])
def test_an_address_is_taken_in_both_spellings(text: str) -> None:
    assert CliRunner().invoke(with_device, ["--device", text]).output == f"{at('3b')!r}\n"


@pytest.mark.parametrize("text", ["3b:00.0", "3b", "", "0000:3b:00", "all"])
def test_anything_less_than_an_address_is_wrong_usage_with_an_example(text: str) -> None:
    result = CliRunner().invoke(with_device, ["--device", text])
    assert result.exit_code == 2
    assert repr(text) in result.output
    assert "0000:3b:00.0" in result.output


# --- naming


def test_the_naming_is_what_existing_manifests_expect_by_default() -> None:
    """facts/labels-and-settings.md: `P_GPU_ALIAS` (pgpu), `NVSWITCH_ALIAS` (nvswitch)."""
    assert run(settings.naming_options)[1] == {"naming": Naming("pgpu", "nvswitch", VfioMode.AUTO)}


def test_the_naming_comes_from_flags_or_from_the_environment() -> None:
    expected = {"naming": Naming("gpu", "switch", VfioMode.LEGACY)}
    flags = ("--gpu-alias", "gpu", "--nvswitch-alias", "switch", "--vfio-mode", "legacy")
    assert run(settings.naming_options, *flags)[1] == expected
    environment = {"P_GPU_ALIAS": "gpu", "NVSWITCH_ALIAS": "switch", "VFIO_MODE": "legacy"}
    assert run(settings.naming_options, **environment)[1] == expected


def test_an_empty_alias_means_one_resource_per_model_wherever_it_is_set() -> None:
    """facts/labels-and-settings.md; click takes an empty variable for one that is not set."""
    expected = {"naming": Naming("", "", VfioMode.AUTO)}
    assert run(settings.naming_options, "--gpu-alias", "", "--nvswitch-alias", "")[1] == expected
    assert run(settings.naming_options, P_GPU_ALIAS="", NVSWITCH_ALIAS="")[1] == expected


@pytest.mark.parametrize("alias", ["1gpu", "p gpu", "p/gpu", "p.gpu", "-", "g" * 64])
def test_an_alias_that_cannot_be_a_name_is_refused_with_its_flag(alias: str) -> None:
    with pytest.raises(InvalidValue, match=f"--gpu-alias: '{alias[:2]}"):
        parse_naming(alias, "nvswitch", "auto")
    with pytest.raises(InvalidValue, match=f"--nvswitch-alias: '{alias[:2]}"):
        parse_naming("pgpu", alias, "auto")


def test_one_alias_cannot_mean_gpus_and_switches() -> None:
    with pytest.raises(InvalidValue, match="are both 'gpu'"):
        parse_naming("gpu", "gpu", "auto")
    assert parse_naming("", "", "auto") == Naming("", "", VfioMode.AUTO)


def test_an_unknown_vfio_mode_is_wrong_usage_with_the_choices() -> None:
    result, called = run(settings.naming_options, "--vfio-mode", "both")
    assert (result.exit_code, called) == (2, {})
    assert all(mode.value in result.output for mode in VfioMode)


# --- the node


def test_the_node_is_that_below_the_host_root(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.add("3b")
    for result, called in (
        run(settings.node_option, "--host-root", str(tmp_path)),
        run(settings.node_option, HOST_ROOT=str(tmp_path)),
    ):
        assert result.exit_code == 0
        node = called["node"]
        assert isinstance(node, Node)
        assert [device.address for device in node.scan().devices] == [at("3b")]


def test_a_host_root_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    result, called = run(settings.node_option, "--host-root", str(tmp_path / "absent"))
    assert isinstance(result.exception, InvalidValue)
    assert called == {}


def test_a_simulated_node_takes_the_place_of_the_hosts(tmp_path: Path) -> None:
    Tree(tmp_path)
    node = Node.at(tmp_path)
    assert run(settings.node_option, obj=node)[1] == {"node": node}
    assert run(settings.node_option, obj=SimpleNamespace(node=node))[1] == {"node": node}


# --- logs, daemons, output


def test_logging_is_set_up_before_the_verb_begins() -> None:
    result, called = run(settings.log_options, "--log-level", "DEBUG", LOG_FORMAT="json")
    assert (result.exit_code, called) == (0, {})
    assert logging.getLogger().level == logging.DEBUG


@pytest.mark.parametrize("flag", [("--log-format", "xml"), ("--log-level", "loud")])
def test_an_unknown_log_setting_is_wrong_usage(flag: tuple[str, str]) -> None:
    assert run(settings.log_options, *flag)[0].exit_code == 2


def test_a_daemon_looks_every_thirty_seconds_and_listens_nowhere_by_default() -> None:
    assert run(settings.daemon_options)[1] == {"daemon": DaemonSettings(30.0, "")}
    set_by_variables = run(settings.daemon_options, INTERVAL="5", LISTEN="0.0.0.0:9400")[1]
    assert set_by_variables == {"daemon": DaemonSettings(5.0, "0.0.0.0:9400")}


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan", "inf", "1e300"])
def test_an_interval_that_cannot_be_waited_is_wrong_usage(text: str) -> None:
    result, called = run(settings.daemon_options, INTERVAL=text)
    assert (result.exit_code, called) == (2, {})


def test_output_and_dry_run_have_flags_and_variables() -> None:
    assert run(settings.output_option)[1] == {"output": "table"}
    assert run(settings.output_option, "-o", "yaml")[1] == run(settings.output_option, OUTPUT="yaml")[1]
    assert run(settings.output_option, "-o", "xml")[0].exit_code == 2
    assert run(settings.dry_run_option)[1] == {"dry_run": False}
    assert run(settings.dry_run_option, DRY_RUN="true")[1] == run(settings.dry_run_option, "--dry-run")[1]
    assert run(settings.dry_run_option, DRY_RUN="perhaps")[0].exit_code == 2


def test_every_flag_is_shown_with_its_variable() -> None:
    """DESIGN section 2: every flag has an environment variable."""

    @click.command()
    @settings.node_option
    @settings.log_options
    @settings.daemon_options
    @settings.output_option
    @settings.dry_run_option
    @settings.naming_options
    def command(**_kwargs: object) -> None: ...

    text = CliRunner().invoke(command, ["--help"]).output
    assert len(command.params) == 10
    for option in command.params:
        assert isinstance(option.envvar, str), option.name
        assert option.envvar in text


def test_the_version_is_that_of_the_installed_package() -> None:
    result, called = run(settings.version_option("click"), "--version")
    assert result.exit_code == 0
    assert result.output.split()[-1][0].isdigit()
    assert called == {}


def test_options_are_shown_in_the_order_in_which_they_are_given() -> None:
    text = run(settings.options(click.option("--first"), click.option("--second")), "--help")[0].output
    assert text.index("--first") < text.index("--second")
