"""Hints name commands to who types commands, and the table of them is complete."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import hvdrivers
from hvdrivers.cli.app import app
from hvdrivers.cli.report import describe
from hvdrivers.cli.wording import ARGUMENTS, COMMANDS_OF, OPTIONS, in_commands
from hvdrivers.contract import errors
from hvdrivers.contract.driver import OPERATIONS

ROOT = Path(hvdrivers.__file__).parent
OTHERS = {"connect", "fork", "answer_again", "add_network", "passphrase"}
"""What hints name beside operations: Python's own, and what makes a fake host."""
_CALL = re.compile(r"\b([a-z_]+)\([^()\n]*\)")


def options_of(words: str) -> set[str]:
    """The options of a command, which is there."""
    command: Any = typer.main.get_command(app)
    for word in words.split():
        if not word.startswith("-"):
            command = command.commands[word]
    options = {name for param in command.params for name in param.opts}
    assert {word for word in words.split() if word.startswith("-")} <= options
    return options


def hints() -> Iterator[tuple[str, str]]:
    """Every text of the library that is given as a hint, or is in a table of hints, and where."""
    for path in sorted(ROOT.rglob("*.py")):
        if "conformance" in path.parts or "simulator" in path.parts:
            continue
        tables = path.name == "hints.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = isinstance(node, ast.AnnAssign) and (
                tables or ast.unparse(node.target).endswith("HINTS")
            )
            if named or (isinstance(node, ast.keyword) and node.arg == "hint"):
                assert isinstance(node, ast.AnnAssign | ast.keyword)
                assert node.value is not None
                for part in ast.walk(node.value):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        yield f"{path.relative_to(ROOT)}:{node.value.lineno}", part.value


def test_each_operation_has_a_command_or_none() -> None:
    assert COMMANDS_OF.keys() == set(OPERATIONS)
    without = {name for name, command in COMMANDS_OF.items() if command is None}
    assert without == {"close"}
    for command in COMMANDS_OF.values():
        if command is not None:
            assert options_of(command)


def test_options_for_arguments_are_there() -> None:
    for (name, _), option in ARGUMENTS.items():
        assert not option or option.split()[0] in options_of(COMMANDS_OF[name] or "")


def test_no_hint_names_an_operation_to_who_types_commands() -> None:
    """Nor does one name an operation that there is not."""
    found = 0
    named = {*OPERATIONS, *OTHERS}
    for where, hint in hints():
        for name in _CALL.findall(hint):
            found += 1
            assert name in named, f"{where}: there is no {name}()"
        left = set(_CALL.findall(in_commands(hint)))
        assert left <= {"close", *OTHERS}, f"{where}: {in_commands(hint)}"
    assert found > 100


@pytest.mark.parametrize(
    ("hint", "told"),
    [
        ("power_off() it first, or use virtio", "`hvdrivers power off` it first, or use virtio"),
        ("destroy(keep=...) keeps it", "`hvdrivers destroy --keep DISK` keeps it"),
        ("reboot(RebootKind.HARD)", "`hvdrivers power reboot`"),
        ("power_off(graceful=30)", "`hvdrivers power off --graceful SECONDS`"),
        ("connect(pool=...)", "connect(pool=...)"),
        ("raise its limit (ulimit -n)", "raise its limit (ulimit -n)"),
        (None, None),
    ],
)
def test_what_is_told(hint: str | None, told: str | None) -> None:
    assert in_commands(hint) == told
    error = errors.NotSupported("no", hint=hint)
    assert describe(error)["hint"] == told
    assert error.hint == hint  # callers of the library read what they always have


def test_arguments_are_options() -> None:
    for argument, words in OPTIONS.items():
        assert options_of(words)
        assert in_commands(f"give {argument}, or not") == f"give {words.split()[-1]}, or not"
    for kept in ('storage="ssd1"', "disk_name=", "name=web", "destination.storage=", "force=False"):
        assert in_commands(f"give {kept} of it") == f"give {kept} of it"


def test_a_deadline_is_an_option() -> None:
    error = errors.OperationTimeout("the deadline of 3 seconds passed while disks were made")
    assert describe(error)["hint"] == "give a longer --timeout, or look at the host's load"
    assert in_commands("connect_timeout=30, or timeout=30") == "connect_timeout=30, or timeout=30"
