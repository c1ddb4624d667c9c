"""Questions before something is lost."""

from __future__ import annotations

import sys

import typer

from hvdrivers.cli.codes import ExitCode
from hvdrivers.cli.report import BadUsageError, CommandError, say


def confirm(question: str, *, yes: bool) -> None:
    """Go on if the answer is yes.

    Without a terminal nobody can answer, and a script that forgot ``--yes`` must not wait, or take
    the next line of its input for an answer.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise BadUsageError(
            "this destroys data, and there is no terminal to ask on", hint="add --yes"
        )
    say(question)
    code = ExitCode.FAILED
    try:
        if typer.confirm("go on?", err=True):  # the names are in the question, made safe by say()
            return
    except typer.Abort as stopped:  # Ctrl-C, or Ctrl-D, behind the question
        say("")
        if isinstance(stopped.__context__, KeyboardInterrupt):
            code = ExitCode.INTERRUPTED
    raise CommandError("nothing was done", code=code)
