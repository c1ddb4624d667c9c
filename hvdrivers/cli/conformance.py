"""``conformance``: does a driver keep the contract? The suite from the command line."""

from __future__ import annotations

from collections.abc import Callable

from hvdrivers.cli.command import Group
from hvdrivers.cli.conformance_catalogue import explain, list_clauses, mutants
from hvdrivers.cli.conformance_reports import badge, diff, verify
from hvdrivers.cli.conformance_run import reap, run

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
    _group.command(_name)(_function)
group = _group.app
