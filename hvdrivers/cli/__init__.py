"""The ``hvdrivers`` command: what an operator or a shell script asks of a host.

    hvdrivers [OPTIONS] COMMAND HOST [...]

HOST is the first argument: a URL, a host's name in the file of hosts, a driver's name, or ``-`` for
``$HVDRIVERS_HOST``. It may be left out where ``HVDRIVERS_HOST`` is set. Then a first argument that
names no host is taken for what follows HOST: see ``DefaultHost`` in :mod:`hvdrivers.cli.parsing`.

* Data goes to standard output (``-o table|json|yaml``), talk and progress to standard error.
* The exit status says what kind of failure it was: see :mod:`hvdrivers.cli.codes`.
* Names and console output come from tenants: nothing of theirs reaches a terminal but printable
  characters: see :mod:`hvdrivers.cli.text`.

``app.py`` has the table of commands; a command's module is imported when it is called.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NoReturn

_NEEDS = ("typer", "rich", "yaml")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and end the process.

    Args:
        arguments: what follows the command's name; None takes ``sys.argv``.
    """
    if arguments is None:
        _collect_seldom()
    try:
        _run(arguments)
    except KeyboardInterrupt:  # before Typer, which knows what to do, has it in its hands
        sys.stderr.write("interrupted\n")
        sys.exit(130)


def _collect_seldom() -> None:
    """Let the process look seldom for garbage in cycles, and not at its end. While modules are
    imported there is none, and to look for it took a fifth of the time of a short command."""
    gc.set_threshold(100_000, 10, 10)
    atexit.register(gc.freeze)


def _run(arguments: Sequence[str] | None) -> NoReturn:
    _have_streams()
    missing = [module for module in _NEEDS if find_spec(module) is None]
    if missing:
        from hvdrivers.installing import install_hint

        sys.stderr.write(
            f"error: the hvdrivers command needs packages that are not installed:"
            f" {', '.join(missing)}\n"
            f"hint: {install_hint('cli')}\n"
        )
        sys.exit(2)
    from hvdrivers.cli.app import app

    app(args=list(sys.argv[1:] if arguments is None else arguments), prog_name="hvdrivers")
    sys.exit(0)  # not reached: the line above ends the process


def _have_streams() -> None:
    """A program that is started with its standard output closed (``>&-``) has None there. What is
    written then goes nowhere, as its caller said."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - until the process ends
