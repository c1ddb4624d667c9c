"""The order of words, the default host, and what is said to a misspelt or misplaced one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.fake.host import FakeHost
from hvdrivers.models.vif import BridgeVif

from .conftest import Runner
from .test_terminal import in_terminal, without_colours

Make = Callable[..., UUID]


@pytest.mark.parametrize(
    "call",
    [
        "list",
        "show web1",
        "power off web1 --graceful 1",
        "volume list",
        "volume create --size 1",
        "snapshot create web1 before",
        "image list",
        "maintenance status",
        "metadata web1 --set a=b",
        "destroy web1 --yes",
    ],
)
def test_the_host_may_be_left_out_where_a_variable_names_it(
    run: Runner, url: str, make: Make, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    make()
    words = call.split()
    assert run(*words).code == 2  # nothing names a host
    monkeypatch.setenv("HVDRIVERS_HOST", url)
    assert run(*words).code == 0


def test_a_host_on_the_command_line_wins_over_the_variable(
    run: Runner, url: str, make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make()
    file = tmp_path / "hosts.toml"
    file.write_text(f'[hosts.lab]\ndriver = "fake"\nhost = "{url.removeprefix("fake://")}"\n')
    file.chmod(0o600)
    monkeypatch.setenv("HVDRIVERS_HOST", "fake://another-one")
    assert run("show", url, "web1").code == 0
    assert run("show", "lab", "web1", "--config", file).code == 0
    assert run("--config", file, "show", "lab", "web1").code == 0
    missing = run("show", "web1", "-o", "json")
    assert missing.error["type"] == "InstanceNotFound"
    monkeypatch.setenv("HVDRIVERS_HOST", url)
    assert run("show", "-", "web1").code == 0


def test_a_host_before_the_command_is_answered(run: Runner, url: str) -> None:
    done = run("volume", url, "list")
    assert done.code == 2
    assert f"hvdrivers volume list {url}" in done.err


@pytest.mark.parametrize(
    ("words", "meant"), [("spwn", "spawn"), ("volume attch", "attach"), ("power of", "off")]
)
def test_a_misspelt_command_is_answered(run: Runner, words: str, meant: str) -> None:
    done = run(*words.split(), "fake")
    assert done.code == 2
    assert f"Did you mean '{meant}'" in done.err


@pytest.mark.parametrize("group", ["power", "volume", "maintenance", "conformance"])
def test_each_sub_command_has_help_of_its_own(run: Runner, group: str) -> None:
    overview = run(group, "--help").out
    assert "..." not in overview.partition("Commands:")[2]  # no sentence is cut
    names = re.findall(r"^  (\w+)  ", overview.partition("Commands:")[2], re.MULTILINE)
    assert names
    for name in names:
        assert f"Usage: hvdrivers {group} {name}" in run(group, name, "--help").out


def test_only_the_sub_command_takes_its_options(run: Runner, url: str, make: Make) -> None:
    make()
    assert run("power", "on", url, "web1", "--graceful", 5).code == 2
    assert run("power", "off", url, "web1", "--soft").code == 2


def test_list_and_show_tell_addresses(run: Runner, url: str, make: Make) -> None:
    make(vifs=(BridgeVif(id="port1", bridge="br0", address="52:54:00:01:02:03"),))
    make("db1", start=False)
    rows = {row["name"]: row for row in run("list", url, "--addresses", "-o", "json").data}
    assert rows["web1"]["addresses"] == ["10.1.2.3"]
    assert rows["db1"]["addresses"] == []
    assert "10.1.2.3" in run("list", url, "--addresses").out
    assert re.search(r"addresses +10\.1\.2\.3", run("show", url, "web1").out)
    assert run("show", url, "web1", "-o", "json").data["addresses"] == ["10.1.2.3"]


def test_addresses_fail_nothing(
    run: Runner, url: str, host: FakeHost, driver: ComputeDriver, make: Make
) -> None:
    """A guest whose addresses nobody tells is shown without them, with the reason."""
    uuid = make()
    shown = run("show", url, "web1")
    assert shown.code == 0
    assert "none known: neither the guest nor the host has told one yet" in shown.out
    asked = run("addresses", url, "web1", "-o", "json")
    assert (asked.code, asked.data) == (0, [])
    assert asked.err == "none known: neither the guest nor the host has told one yet\n"
    driver.pause(uuid)
    assert "none known: the instance is paused" in run("show", url, "web1").out
    assert run("list", url, "--addresses").code == 0


def test_doctor_does_not_advise_itself(run: Runner, host: FakeHost, url: str) -> None:
    host.stop_answering()
    done = run("doctor", url, "--timeout", 0.2)
    assert done.code == 3
    assert "hvdrivers doctor" not in done.out + done.err


def test_doctor_says_nothing_of_processors_to_a_simulated_host(run: Runner, url: str) -> None:
    done = run("doctor", url)
    assert "VT-x" not in done.out
    assert run("resources", url).code == 0


@pytest.mark.parametrize("unit", ["bytes", "percent"])
def test_a_bar_shows_one_percentage(unit: str) -> None:
    body = f"""
import time
from hvdrivers.cli import interrupt
from hvdrivers.models.progress import Phase, Progress
real = interrupt.Interruptible.run
def run(self, report):
    report(Progress(phase=Phase.UPLOAD, done=50, total=100, unit="{unit}"))
    time.sleep(0.5)
    return real(self, report)
interrupt.Interruptible.run = run
"""
    call = ["spawn", "fake://box", "--name", "a", "--image", "host:cirros"]
    code, shown = in_terminal(call, body=body)
    assert code == 0, shown
    lines = [line for line in re.split(r"[\r\n]", without_colours(shown)) if "upload" in line]
    assert lines
    assert all(line.count("%") <= 1 for line in lines), lines


def test_identities_stay_whole_at_80_columns() -> None:
    code, shown = in_terminal(["resources", "fake://box", "--placement"], env={"COLUMNS": "80"})
    assert code == 0
    assert re.search(r"_0000:[0-9a-f]{2}:[0-9a-f]{2}\.\d ", without_colours(shown))
