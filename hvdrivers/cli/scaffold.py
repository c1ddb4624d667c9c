"""``new-driver``: the package of a driver to be written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hvdrivers.cli import command as cmd
from hvdrivers.cli.output import details
from hvdrivers.cli.report import say
from hvdrivers.cli.session import Session


def make_package(
    session: Session,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="Of the driver: connect(NAME) will find it.", show_default=False
        ),
    ],
    directory: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to make it; ./hv-NAME if not given."),
    ] = None,
) -> None:
    """Make the package of a driver to be written.

    It can be installed, and its conformance suite runs at once: what asks no host passes, and every
    operation that is still to be written says so.
    """
    from hvdrivers.scaffold import scaffold

    made = scaffold(name, directory)
    session.emit(
        {"directory": str(made.directory), "files": [str(each) for each in made.files]},
        lambda: details({"directory": made.directory, "files": list(made.files)}),
    )
    say(
        f"next: cd {made.directory} && pip install -e '.[test]'"
        f" && hvdrivers conformance run {made.name} --tier static"
    )


new_driver = cmd.command(make_package)
