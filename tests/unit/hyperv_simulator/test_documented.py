"""The documented table, and that the simulator serves nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hvdrivers.hyperv.simulator import cmdlets
from hvdrivers.hyperv.simulator.cmdlets.registry import handlers
from hvdrivers.hyperv.simulator.modules import overrides
from hvdrivers.hyperv.simulator.modules.documented import documented
from hvdrivers.hyperv.simulator.modules.generate import HANDMADE, write_modules

BY_HAND = {name for names in HANDMADE.values() for name in names}
OF_GUESTS = {"Invoke-Command", "Get-LocalUser", "Set-LocalUser"}
"""PowerShell's own, which modules/direct.ps1 leads into played guests."""
OF_THE_SIMULATOR = {"Get-SimulatedRun"}
"""What modules/direct.ps1 asks the simulated host itself: no client sees it."""
OF_FILES = {"Remove-Item", "Test-Path"}
"""PowerShell's own, which modules/removal.ps1 and shares.ps1 lead to the simulated host's files."""


def test_every_served_cmdlet_is_documented() -> None:
    ours = BY_HAND | OF_GUESTS | OF_FILES | OF_THE_SIMULATOR
    assert set(handlers()) <= set(documented()) | ours
    assert set(handlers()) >= BY_HAND


def test_sets_name_parameters_that_have_a_type() -> None:
    for cmdlet in documented().values():
        named = {bound.name for bound_set in cmdlet.sets.values() for bound in bound_set}
        assert named == set(cmdlet.types), cmdlet.name


def test_overrides_meet_something() -> None:
    for cmdlet, parameter_set, parameter in overrides.MANDATORY:
        names = [bound.name for bound in documented()[cmdlet].sets[parameter_set]]
        assert parameter in names, (cmdlet, parameter_set)
    for cmdlet, parameter in (*overrides.PARAMETER_ALIASES, *overrides.PIPED_BY_NAME):
        assert parameter in documented()[cmdlet].types, (cmdlet, parameter)
    for name in (*overrides.IMPACT, *overrides.CLASSES):
        assert name in documented(), name


READS = re.compile(
    r"call\.(?:text|texts|items|things|integer|flag|has|on_off|duration|moment)\(\s*\"(\w+)\""
)
HANDLER = re.compile(r"@cmdlet\(([^)]*)\)\ndef \w+\(call: Call\)[^\n]*\n((?:(?:    [^\n]*)?\n)+)")
FILES = sorted(Path(cmdlets.__path__[0]).glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_handlers_read_parameters_that_exist(file: Path) -> None:
    """A handler of several cmdlets may read what one of them has."""
    for names, body in HANDLER.findall(file.read_text("utf-8")):
        served = [name for name in re.findall(r'"([^"]+)"', names) if name in documented()]
        known = {parameter for name in served for parameter in documented()[name].types}
        # Sets that every cmdlet of a kind shares are read by one function.
        known |= {"AsJob", "Force", "Passthru", "PassThru", "VMNetworkAdapterName", "VM", "Name"}
        if served:
            assert set(READS.findall(body)) <= known, served


def test_handlers_and_what_they_read_are_found() -> None:
    """Without this the test above would pass if it found none."""
    found = [each for file in FILES for each in HANDLER.findall(file.read_text("utf-8"))]
    assert len(found) > len(handlers()) // 2
    assert sum(len(READS.findall(body)) for _, body in found) > len(found)


def test_modules_are_written_with_every_cmdlet(tmp_path: Path) -> None:
    write_modules(tmp_path)
    lines = (tmp_path / "Hyper-V" / "functions").read_text("utf-8").splitlines()
    assert any(
        line.startswith("Microsoft.HyperV.PowerShell.Commands.NewVM\tNew-VM\t[CmdletBinding(")
        for line in lines
    )
    of_module = [each for each in documented().values() if each.module == "Hyper-V"]
    assert len(lines) == len(of_module)
    assert all(len(line.split("\t")) == 3 for line in lines)
    manifest = (tmp_path / "Hyper-V" / "Hyper-V.psd1").read_text("utf-8")
    for name, cmdlet in documented().items():
        if cmdlet.module == "Hyper-V":
            assert f"'{name}'" in manifest


def test_the_page_counts_what_is_played() -> None:
    page = Path(__file__).parents[3] / "docs" / "hyperv-simulator.md"
    rows = dict(re.findall(r"^\| (\S+) \| (\d+ \| \d+) \|$", page.read_text("utf-8"), re.M))
    for module in ("Hyper-V", "Storage", "iSCSI"):
        names = [name for name, cmdlet in documented().items() if cmdlet.module == module]
        played = sum(name in handlers() for name in names)
        assert rows[module] == f"{len(names)} | {played}"
