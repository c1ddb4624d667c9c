"""What happens when a server cannot be had: a skip on somebody's laptop, a failure on CI."""

from __future__ import annotations

import os
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
