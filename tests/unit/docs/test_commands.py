"""Commands that the pages name exist: with their options, make's targets, scripts and extras."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from hvdrivers.cli.app import app
from hvdrivers.contract.errors import InvalidRequest
from hvdrivers.plugins import load_driver
from hvdrivers.plugins.discovery import driver_of_scheme
from tests.unit.docs.page import DOCS, ROOT

PAGES = [
    ROOT / "README.md",
    *(path for path in sorted(DOCS.rglob("*.md")) if path.name != "cli.md"),  # that is made
    *sorted((ROOT / "examples").glob("*.py")),
]
_FENCE = re.compile(r"^```(bash|console|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")


def _shell(text: str) -> Iterator[str]:
    """Command lines of a page: of its shell blocks, and those in running text."""
    for _, body in _FENCE.findall(text):
        yield from body.replace("\\\n", " ").splitlines()
    yield from (span.replace("\n", " ") for span in _SPAN.findall(re.sub(_FENCE, "", text)))


def _lines(program: str) -> list[tuple[str, list[str]]]:
    """Each command line that begins with ``program``: the page, and its words."""
    found = []
    for path in PAGES:
        for line in _shell(path.read_text(encoding="utf-8")):
            bare = re.split(r"\s#\s|[|;>]|&&", line.strip().removeprefix("$ "))[0]
            words = shlex.split(bare.replace("'", "")) if program in bare else []
            while words and re.fullmatch(r"[A-Z_]+=\S*|sudo", words[0]):
                words = words[1:]
            if words[1:] and words[0] == program and words[1][0] not in "<(":
                found.append((str(path.relative_to(ROOT)), words[1:]))
    return found


@pytest.mark.parametrize(("page", "words"), _lines("hvdrivers"))
def test_commands_and_options_exist(page: str, words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    known = {name for param in command.params for name in param.opts}
    rest = list(words)
    while rest and hasattr(command, "commands"):
        word = rest.pop(0)
        if word.startswith("-"):
            continue
        if word in ("…", "..."):
            return
        assert word in command.commands, f"{page}: hvdrivers {shlex.join(words)}"
        command = command.commands[word]
        known |= {name for param in command.params for name in param.opts}
    options = [word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)]
    assert set(options) <= known | {"--help", "-h"}, f"{page}: hvdrivers {shlex.join(words)}"


def test_hosts_that_commands_name_by_url_need_nothing_more() -> None:
    """A URL that lacks a password is a command that fails for who types it."""
    found = 0
    for page, words in _lines("hvdrivers"):
        for url in words:
            scheme = re.match(r"[a-z]+(?=(\+[a-z]+)?://)", url)
            if scheme is not None and scheme[0] not in {"http", "https"}:
                found += 1
                model = load_driver(driver_of_scheme(scheme[0])).config_model
                try:
                    model.from_url(url)
                except InvalidRequest as error:
                    pytest.fail(f"{page}: hvdrivers {shlex.join(words)}: {error.message}")
    assert found > 2


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = _lines("make")
    assert len(named) > 5
    for page, words in named:
        assert {word for word in words if "=" not in word} <= targets, f"{page}: make {words}"


def test_scripts_and_examples_exist() -> None:
    named = re.compile(
        r"(?<![\w/.-])(?:scripts|examples|tests)/[\w/.-]*\w/?|(?<![\w/.-])hvdrivers/[\w/.-]+\.py\b"
    )
    found = 0
    for path in PAGES:
        for line in _shell(path.read_text(encoding="utf-8")):
            for name in named.findall(line):
                found += 1
                assert (ROOT / name).exists(), f"{path.relative_to(ROOT)}: {name}"
    assert found > 10


def test_extras_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = 0
    for path in PAGES:
        for extras in re.findall(
            r"""(?:hvdrivers|["']\.)\[([a-z,-]+)\]""", path.read_text(encoding="utf-8")
        ):
            found += 1
            assert set(extras.split(",")) <= set(project["optional-dependencies"]), path
    assert found > 5


def test_nothing_is_installed_from_where_it_is_not_yet() -> None:
    """The day that PyPI has it, this test and the pages change."""
    for page, words in _lines("pip"):
        assert not [word for word in words if word.startswith("hvdrivers")], f"{page}: pip {words}"


def test_hosts_of_the_pages_have_fields_that_their_drivers_know() -> None:
    found = 0
    for path in PAGES:
        for body in re.findall(r"^```toml\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL):
            for name, host in tomllib.loads(body).get("hosts", {}).items():
                found += 1
                fields = load_driver(host.pop("driver")).config_model.model_fields
                unknown = {key for key in host if key.removesuffix("_file") not in fields}
                assert unknown <= set(fields), f"{path}: [hosts.{name}] {unknown}"
    assert found > 1
