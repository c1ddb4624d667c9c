"""Known issues: checks that are known to fail, with a bug and a date.

::

    [[issue]]
    check = "EVENT-004/tells_that_a_guest_died"
    bug = "https://bugs.example.org/17"
    expires = 2027-03-31

An entry hides nothing: the check still runs, is reported as ``known-issue`` and counts against the
level. It turns into a failure when the check passes, when the date is over, and when it names no
check of the suite.
"""

from __future__ import annotations

import tomllib
from datetime import date
from pathlib import Path

from pydantic import ValidationError

from hvdrivers.conformance.engine.clauses import catalogue
from hvdrivers.conformance.engine.runner import KnownIssue
from hvdrivers.contract.errors import InvalidRequest
from hvdrivers.models.base import Model


class _Issue(Model):
    check: str
    bug: str
    expires: date


class _File(Model):
    issue: tuple[_Issue, ...] = ()


def read_known_issues(path: Path) -> list[KnownIssue]:
    """The entries of a file.

    Raises:
        InvalidRequest: it cannot be read, or an entry names no check.
    """
    try:
        found = _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise InvalidRequest(f"{path} is no list of known issues: {error}") from error
    checks = catalogue().checks
    unknown = sorted({each.check for each in found.issue} - set(checks))
    if unknown:
        raise InvalidRequest(
            f"{path} names checks that do not exist: {', '.join(unknown)}",
            hint="hvdrivers conformance list shows them all; remove what is gone",
        )
    return [KnownIssue(each.check, each.bug, each.expires) for each in found.issue]
