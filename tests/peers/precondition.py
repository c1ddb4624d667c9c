"""What happens when a server cannot be had: a skip on somebody's laptop, a failure on CI."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest


class PreconditionMissing(Exception):
    """A peer cannot run here; the message says what is missing."""


def peers_are_required() -> bool:
    """CI must never turn green because a server was not there."""
    return any(
        os.environ.get(name, "").lower() not in ("", "0", "false", "no")
        for name in ("HVDRIVERS_REQUIRE_PEERS", "CI")
    )


def missing(reason: str) -> NoReturn:
    """Skip the test, or fail it where peers are required."""
    sentence = f"precondition missing: {reason.removeprefix('precondition missing: ')}"
    if peers_are_required():
        pytest.fail(sentence, pytrace=False)
    pytest.skip(sentence)


def tool(*command: str | Path) -> bytes:
    """What a program prints that the tests need and the library does not."""
    if shutil.which(str(command[0])) is None:
        missing(f"{command[0]} (run `make setup`)")
    return subprocess.run([str(part) for part in command], check=True, capture_output=True).stdout
