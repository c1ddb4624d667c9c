"""The package of a new driver, from templates: ``hvdrivers new-driver NAME``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from hvdrivers.contract.errors import InvalidRequest
from hvdrivers.plugins.discovery import registered

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_PLACE = re.compile(r"@(name|package|Class|distribution)@")
_SUFFIX = ".tmpl"


@dataclass(frozen=True)
class Scaffold:
    """What was made."""

    name: str
    """The driver's name."""
    package: str
    """What to import: ``hv_acme``."""
    directory: Path
    files: tuple[Path, ...]
    """Relative to the directory."""


def scaffold(name: str, directory: Path | None = None) -> Scaffold:
    """Write the package of a driver.

    Args:
        directory: must be empty, or not there; None: ``hv-NAME`` in the current one.

    Raises:
        InvalidRequest: not a name, taken by an installed driver, or the directory is not empty.
    """
    if not _NAME.fullmatch(name) or len(name) > 40:
        raise InvalidRequest(
            f"{name!r} is no name for a driver",
            hint="up to 40 lower-case letters, digits and single hyphens, a letter first",
        )
    if name in registered():
        raise InvalidRequest(f"a driver {name!r} is installed already", hint="hvdrivers drivers")
    directory = Path(f"hv-{name}") if directory is None else directory
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InvalidRequest(
            f"{directory} is there already, and not an empty directory",
            hint="name another directory",
        )
    words = {
        "name": name,
        "package": f"hv_{name.replace('-', '_')}",
        "Class": "".join(part.capitalize() for part in name.split("-")),
        "distribution": f"hv-{name}",
    }
    made = []
    for path, text in _templates(files(__package__).joinpath("templates")):
        target = Path(_filled(path.as_posix(), words))
        (directory / target).parent.mkdir(parents=True, exist_ok=True)
        (directory / target).write_text(_filled(text, words), encoding="utf-8")
        made.append(target)
    return Scaffold(
        name=name, package=words["package"], directory=directory, files=tuple(sorted(made))
    )


def _templates(folder: Traversable, inside: Path = Path()) -> Iterator[tuple[Path, str]]:
    for each in folder.iterdir():
        if each.is_dir():
            yield from _templates(each, inside / each.name)
        elif each.name.endswith(_SUFFIX):
            path = inside / each.name.removesuffix(_SUFFIX)
            yield path, each.read_text(encoding="utf-8")


def _filled(text: str, words: dict[str, str]) -> str:
    return _PLACE.sub(lambda found: words[found[1]], text)
