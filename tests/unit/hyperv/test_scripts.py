"""The scripts: what a reader without an engine can say of them."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest

from hvdrivers.hyperv.session import READS
from hvdrivers.hyperv.simulator.modules.documented import documented

FOLDER = Path(str(resources.files("hvdrivers.hyperv") / "scripts"))
SCRIPTS = sorted(FOLDER.glob("*.ps1"))
COMMON = {"ErrorAction", "WarningAction", "ErrorVariable", "Verbose", "Confirm", "WhatIf"}


def parameters() -> dict[str, set[str]]:
    """The documented parameters of each cmdlet of module Hyper-V."""
    return {
        each.name: {bound.name for bounds in each.sets.values() for bound in bounds}
        for each in documented().values()
        if each.module == "Hyper-V"
    }


def calls(text: str) -> list[tuple[str, set[str]]]:
    """Cmdlets of module Hyper-V with the parameters that they are given, comments left out."""
    plain = re.sub(r"(?m)^\s*#.*$", "", text).replace("`\n", " ")
    plain = re.sub(r"'[^'\n]*'|\"[^\"\n]*\"", "''", plain)
    return [
        (found[1], set(re.findall(r"(?<=\s)-([A-Za-z]\w+)", found[2])))
        for found in re.finditer(r"Hyper-V\\([A-Za-z]+-[A-Za-z]+)([^\n|;{}]*)", plain)
    ]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda each: each.name)
def test_each_cmdlet_and_parameter_is_documented(script: Path) -> None:
    known = parameters()
    operators = {"and", "or", "not", "eq", "ne", "gt", "ge", "lt", "le", "match", "notmatch"}
    for name, given in calls(script.read_text(encoding="utf-8")):
        assert name in known, f"{script.name}: {name} is not documented"
        for parameter in given - COMMON - operators:
            assert any(each.casefold() == parameter.casefold() for each in known[name]), (
                f"{script.name}: {name} has no parameter -{parameter}"
            )


def test_the_cmdlets_of_the_scripts_are_found() -> None:
    """Without this the test above would pass if it found none."""
    found = [call for script in SCRIPTS for call in calls(script.read_text(encoding="utf-8"))]
    assert {"New-VM", "Get-VM", "Remove-VM", "Set-VM"} <= {name for name, _ in found}
    assert any(given for _, given in found)
    assert calls("Hyper-V\\Get-VM -Colour 'red' | Out-Null") == [("Get-VM", {"Colour"})]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda each: each.name)
def test_the_text_parses(script: Path) -> None:
    tree_sitter = pytest.importorskip("tree_sitter", reason="precondition missing: tree-sitter")
    grammar = pytest.importorskip(
        "tree_sitter_pwsh", reason="precondition missing: tree-sitter-pwsh"
    )
    parser = tree_sitter.Parser(tree_sitter.Language(grammar.language()))
    tree = parser.parse(script.read_bytes())
    assert not tree.root_node.has_error, f"{script.name}: {tree.root_node}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda each: each.name)
def test_what_windows_powershell_5_cannot_do_is_not_there(script: Path) -> None:
    text = re.sub(r"(?m)^\s*#.*$", "", script.read_text(encoding="utf-8"))
    assert script.read_bytes().isascii()
    for newer in (r"\?\?", r"&&", r"\|\|", r"\?\.", r"-Parallel", r"\bternary\b"):
        assert not re.search(newer, text), newer
    # nothing that turns data into code, and nothing that writes past the frames
    for never in ("Invoke-Expression", "iex ", "Write-Host", "-AsPlainText"):
        assert never not in text, never
    if script.name not in {"loop.ps1", "bootstrap.ps1"}:
        assert "[scriptblock]::Create" not in text
        assert "Console]" not in text


def test_only_the_module_itself_is_asked() -> None:
    """A host may have another module with a Get-VM of its own."""
    names = set(parameters())
    for script in SCRIPTS:
        text = re.sub(r"(?m)^\s*#.*$", "", script.read_text(encoding="utf-8"))
        text = re.sub(r"'[^'\n]*'|\"[^\"\n]*\"", "''", text)
        for found in re.finditer(r"(?<![\\\w-])([A-Z][a-z]+-VM\w*|[A-Z][a-z]+-VHD)\b", text):
            assert found[1] not in names, f"{script.name}: {found[1]} without its module"


def test_files_are_removed_where_a_busy_one_is_waited_for() -> None:
    for script in SCRIPTS:
        if script.name != "removing.ps1":
            text = script.read_text(encoding="utf-8")
            assert not re.search(r"\bRemove-Item\b|::Delete\(", text), script.name


def test_arrays_that_come_whole_are_taken_apart() -> None:
    """A function that ends in ", $list" gives one thing, the list. A bare call behind "in", or in
    front of "|", would see that, and not its items."""
    everything = "\n".join(each.read_text(encoding="utf-8") for each in SCRIPTS)
    bodies = re.findall(r"(?ms)^function ([\w-]+) \{\n(.*?)^\}", everything)
    whole = {name for name, body in bodies if re.search(r"(?m)^    (?:return )?, ", body)}
    assert {"Get-HvRecord", "Get-HvOwnFolders", "Read-HvSnapshots"} <= whole
    names = "|".join(sorted(whole))
    bare = rf"(?m)\bin (?:{names})\b[^\n]*\{{$|(?<![(\w-])(?:{names})\b[^\n(){{}}]*\|"
    assert not [found[0] for found in re.finditer(bare, everything)]
    assert re.search(bare, "foreach ($line in Get-HvRecord $Found.Folder) {")
    assert re.search(bare, "Get-HvRecord $Folder | Where-Object { $_ }")


def test_texts_are_compared_letter_by_letter() -> None:
    """Without a word .NET compares as the language of the host does, where some letters count for
    nothing and others for two."""
    for script in SCRIPTS:
        for line in script.read_text(encoding="utf-8").splitlines():
            if re.search(r"\.(StartsWith|EndsWith)\(", line):
                assert "'Ordinal" in line, f"{script.name}: {line.strip()}"
            assert not re.search(r"\.To(Lower|Upper)\(", line), f"{script.name}: {line.strip()}"


def test_looks_have_runspaces_of_their_own() -> None:
    text = (FOLDER / "loop.ps1").read_text(encoding="utf-8")
    kinds = text[text.index("function Get-HvKind") : text.index("function New-HvStopped")]
    looks = set(re.findall(r"'(\w+)'", kinds[kinds.index("$looks = ") : kinds.index("if (")]))
    assert looks == READS | {"MoveAbort", "RelocateEnd"}
    everything = "".join(each.read_text(encoding="utf-8") for each in SCRIPTS)
    for name in re.findall(r"'([A-Z]\w+)'", kinds):
        assert f"function Invoke-Hv{name} " in everything
