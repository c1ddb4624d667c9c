"""The table of commands, and what happens around every one of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, MutableMapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from hvdrivers.cli.codes import ExitCode
from hvdrivers.cli.command import (
    HELP_NAMES,
    DebugOption,
    TimeoutOption,
    VerboseOption,
    merge,
)
from hvdrivers.cli.output import Output
from hvdrivers.cli.parsing import SubCommands
from hvdrivers.cli.registry import COMMANDS
from hvdrivers.cli.report import say, tell
from hvdrivers.cli.session import Session


class _Commands(MutableMapping[str, Any]):
    """Commands by name, each imported and built when it is asked for."""

    def __init__(self) -> None:
        self._built: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            module, _, attribute = COMMANDS[name].where.partition(":")
            made = getattr(import_module(f"hvdrivers.cli.{module}"), attribute)
            self._built[name] = typer.main.get_command(made)
            self._built[name].name = name
        return self._built[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._built[name] = command

    def __delitem__(self, name: str) -> None:
        raise TypeError("commands stay")

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class RootGroup(SubCommands):
    """The command itself."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Commands()

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        sections = dict.fromkeys(entry.section for entry in COMMANDS.values())
        for section in sections:
            with formatter.section(section):
                formatter.write_dl(
                    [
                        (name, entry.help)
                        for name, entry in COMMANDS.items()
                        if entry.section == section
                    ],
                    col_max=20,
                )

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run, tell failures in our own words, and end with the exit status that says which."""
        arguments = list(sys.argv[1:] if args is None else args) or ["--help"]
        session = Session(output=_asked_for(arguments))
        code: int
        try:
            result = super().main(
                arguments,
                prog_name or "hvdrivers",
                complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                obj=session,
                **extra,
            )
            code = result if isinstance(result, int) else ExitCode.OK
            if code == ExitCode.INTERRUPTED:
                say("interrupted")
        except BrokenPipeError:
            raise  # Typer's: whoever read has seen enough
        except Exception as error:  # noqa: BLE001 - told with its type, and the traceback if asked
            code = tell(
                error,
                as_json=session.output is Output.JSON,
                debug=session.debug,
                secrets=session.secrets,
            )
        if standalone_mode:
            sys.exit(code)
        return code


def _asked_for(arguments: Sequence[str]) -> Output:
    """The output format, for errors in the command line itself: then nobody has parsed it."""
    for index, argument in enumerate(arguments):
        following = arguments[index + 1] if index + 1 < len(arguments) else ""
        if argument in {"-ojson", "--output=json"} or (
            argument in {"-o", "--output"} and following == "json"
        ):
            return Output.JSON
    return Output.TABLE


app = typer.Typer(
    cls=RootGroup,
    name="hvdrivers",
    rich_markup_mode=None,  # help as plain text: it takes no colours, and half of the time
    pretty_exceptions_enable=False,
    context_settings=HELP_NAMES,
)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"hvdrivers {version('hvdrivers')}")
        except PackageNotFoundError:  # run from a checkout
            typer.echo("hvdrivers (not installed)")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    output: Annotated[
        Output | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FORMAT",
            envvar="HVDRIVERS_OUTPUT",
            help="Write data as table, json or yaml.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE",
            envvar="HVDRIVERS_CONFIG",
            help="The TOML file of hosts, instead of your own.",
        ),
    ] = None,
    timeout: TimeoutOption = None,
    verbose: VerboseOption = False,
    debug: DebugOption = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Run virtual machines on any hypervisor that has a driver.

    HOST is the first argument after the command: a URL (qemu:///system), a host of the file of
    hosts, or a driver's name. It may be left out where HVDRIVERS_HOST names one. The options below
    may also follow the command.

    Exit status: 0 done, 1 failed, 2 wrong arguments, 3 host unreachable or access denied, 4 not
    supported, 5 partly done, left-overs or warnings, 6 outcome unknown or deadline passed, 130
    interrupted.
    """
    del version
    merge(
        ctx.obj,
        {
            "output": output,
            "config": config,
            "timeout": timeout,
            "verbose": verbose,
            "debug": debug,
        },
    )
