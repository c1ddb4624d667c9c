"""``conformance``: does a driver keep the contract? The suite from the command line."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.util import find_spec

from hvdrivers.cli.command import Group
from hvdrivers.cli.conformance_catalogue import explain, list_clauses, mutants
from hvdrivers.cli.conformance_reports import badge, diff, verify
from hvdrivers.cli.conformance_run import reap, run
from hvdrivers.cli.report import CommandError
from hvdrivers.installing import install_hint

_NEEDS = ("hypothesis", "pytest", "oslo_utils", "httpx", "cryptography", "pycdlib")
"""Modules of the extra ``conformance``."""


def _with_suite(function: Callable[..., None]) -> Callable[..., None]:
    """A command that says what to install where the suite cannot be imported."""

    @functools.wraps(function)
    def guarded(*args: object, **options: object) -> None:
        missing = [module for module in _NEEDS if find_spec(module) is None]
        if missing:
            raise CommandError(
                "the conformance suite needs packages that are not installed:"
                f" {', '.join(missing)}",
                hint=install_hint("cli,conformance"),
            )
        function(*args, **options)

    return guarded


_group = Group("Check whether a driver keeps the contract.", of_host=False)
_commands: dict[str, Callable[..., None]] = {
    "run": run,
    "list": list_clauses,
    "explain": explain,
    "mutants": mutants,
    "reap": reap,
    "verify": verify,
    "diff": diff,
    "badge": badge,
}
for _name, _function in _commands.items():
    _group.command(_name)(_with_suite(_function))
group = _group.app
