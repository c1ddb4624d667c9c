"""What the pages and the hints say of installation, and what ``pyproject.toml`` has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from hvdrivers.installing import install_hint

ROOT = Path(__file__).parents[3]
EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
SETUP = ROOT / "scripts/setup"
SOURCES = sorted((ROOT / "hvdrivers").rglob("*.py"))
OWN_EXTRA = re.compile(r"hvdrivers\[([a-z,]+)\]")


def brought(extra: str) -> set[str]:
    """The packages that an extra brings, those of the extras that it names included."""
    found = set()
    for requirement in EXTRAS[extra]:
        own = OWN_EXTRA.fullmatch(requirement)
        if own:
            found |= {name for each in own[1].split(",") for name in brought(each)}
        else:
            found.add(re.split(r"[<>=!~\[ ]", requirement)[0].lower())
    return found


def test_the_suite_needs_no_extra_beside_its_own() -> None:
    """Its checks make images, and its guests have seed discs."""
    assert brought("images") <= brought("conformance")


def test_what_an_extra_brings_has_a_tested_version() -> None:
    """``make setup`` installs by ``constraints.txt``."""
    tested = {
        re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    # "bench" is a peer for comparison: it is no part of what make setup installs
    needed = {name for extra in EXTRAS if extra != "bench" for name in brought(extra)}
    assert {re.sub(r"[-_.]+", "-", name) for name in needed} <= tested


def test_pages_name_extras_that_are_there() -> None:
    """In a clone: ``pip install '.[cli]'``, or ``./hvdrivers[cli]`` beside it."""
    named = 0
    for page in PAGES:
        for found in re.finditer(
            r"pip\s+install\s+(?:-e )?['\"](\S*?)\[([a-z,]+)\]", page.read_text()
        ):
            if found[1] in {".", "./hvdrivers"}:
                assert set(found[2].split(",")) - {"test"} <= set(EXTRAS), (page.name, found[0])
                named += 1
            else:
                # the library is not on PyPI yet
                assert found[1] != "hvdrivers", (page.name, found[0])
    assert named > 5


def test_hints_have_one_wording() -> None:
    assert install_hint("cli") == (
        "in a clone of hvdrivers (it is not on PyPI yet): pip install '.[cli]'"
    )
    asked = set()
    for source in SOURCES:
        text = source.read_text()
        assert "pip install 'hvdrivers[" not in text, source.name
        for found in re.findall(r"install_hint\(['\"]([a-z,]+)['\"]\)", text):
            asked |= set(found.split(","))
    assert {"cli", "conformance", "images"} <= asked <= set(EXTRAS)


@pytest.mark.parametrize(
    ("driver", "module"), [("libvirt", "libvirt"), ("vmware", "pyVmomi"), ("hyperv", "winrm")]
)
def test_a_driver_of_ours_without_its_client_library(driver: str, module: str) -> None:
    code = (
        "import sys\n"
        f"sys.modules[{module!r}] = None\n"
        "from hvdrivers.plugins import list_plugins\n"
        f"print(next(each.hint for each in list_plugins() if each.name == {driver!r}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.strip() == install_hint(driver), done.stderr


@pytest.mark.parametrize(
    ("release", "apart"),
    [
        ('ID=debian\nVERSION_ID="12"', False),
        ('ID=debian\nVERSION_ID="13"', True),
        ("ID=debian", True),
        ('ID=ubuntu\nVERSION_ID="22.04"', False),
        ('ID=ubuntu\nVERSION_ID="24.04"', True),
        ("ID=fedora\nVERSION_ID=41", False),
    ],
)
def test_setup_names_virtiofsd_where_it_is_a_package(
    release: str, apart: bool, tmp_path: Path
) -> None:
    """Debian 12 has it in QEMU's own package: to ask apt for it would fail, and so would setup."""
    (tmp_path / "os-release").write_text(release)
    functions = re.findall(r"(?ms)^(?:needs|has_virtiofsd_apart)\(\).*?^}$", SETUP.read_text())
    script = "\n".join(["set -euo pipefail", *functions, "needs"])
    listed = subprocess.run(
        ["bash", "-c", script],
        env={"OS_RELEASE": str(tmp_path / "os-release"), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    packages = [line.split()[1] for line in listed.splitlines()]
    assert "qemu-utils" in packages
    assert ("virtiofsd" in packages) is apart
