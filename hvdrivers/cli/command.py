"""How a command is made: its function, plus the options that every command has.

``-o``, ``--config``, ``--timeout``, ``-v`` and ``--debug`` may stand before the command's name and
after it; after it wins. A command's function gets the Session instead of them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from hvdrivers.cli.complete import complete_host, complete_instance
from hvdrivers.cli.output import Output
from hvdrivers.cli.parsing import DefaultHost, SubCommands
from hvdrivers.cli.report import operations_log
from hvdrivers.cli.session import Session

OutputOption = Annotated[
    Output | None,
    typer.Option("--output", "-o", metavar="FORMAT", help="Write data as table, json or yaml."),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="The TOML file of hosts, instead of your own."),
]
TimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--timeout", metavar="SECONDS", help="Bound each operation, instead of its own default."
    ),
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Say more: each change on standard error.")
]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="Show the log of all operations, and tracebacks.")
]

HostArgument = Annotated[
    str,
    typer.Argument(
        metavar="HOST",
        help="A URL, a host of the file of hosts, or a driver's name. It may be left out where"
        " HVDRIVERS_HOST names one.",
        autocompletion=complete_host,
        show_default=False,
    ),
]
InstanceArgument = Annotated[
    str,
    typer.Argument(
        metavar="INSTANCE",
        help="A UUID, at least 4 digits of its beginning, or a name; it must be the only one.",
        autocompletion=complete_instance,
        show_default=False,
    ),
]
VcpusOption = Annotated[int | None, typer.Option(metavar="N", min=1, help="Virtual CPUs.")]
MemoryOption = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Memory: MiB, or with a unit, 2GiB.")
]
RootDiskOption = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Root disk: GiB, or with a unit.")
]
MaxVcpusOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        help="How far CPUs can be added while the instance runs. 0: not at all.",
    ),
]
MaxMemoryOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="How far memory can be added while the instance runs: MiB, or with a unit."
        " 0: not at all.",
    ),
]
CpuPolicyOption = Annotated[
    str | None,
    typer.Option(
        metavar="POLICY",
        help="shared, or dedicated: each virtual CPU has a thread of the host to itself.",
    ),
]
PageSizeOption = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Back the memory by huge pages of this size: KiB, or with a unit, 2MiB."
        " 0: ordinary pages.",
    ),
]
NumaNodesOption = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=0, help="Virtual NUMA nodes; the host places them. 0: its own default."
    ),
]
ThereStorageOption = Annotated[
    str | None, typer.Option(metavar="POOL", help="Where to put the disks there.")
]
ThereUserOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Where it needs credentials of its own.")
]
TherePasswordOption = Annotated[
    str | None,
    typer.Option(metavar="VARIABLE", help="Environment variable with its password."),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

_COMMON: dict[str, tuple[Any, Any]] = {
    "output": (OutputOption, None),
    "config": (ConfigOption, None),
    "timeout": (TimeoutOption, None),
    "verbose": (VerboseOption, False),
    "debug": (DebugOption, False),
}
HELP_NAMES = {"help_option_names": ["-h", "--help"]}
_APP: dict[str, Any] = {
    "add_completion": False,  # the root has it
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
    "context_settings": HELP_NAMES,
}


def merge(session: Session, options: dict[str, Any]) -> None:
    """Take over what was given; what was not leaves what there is."""
    for name, value in options.items():
        if value is not None and value is not False:
            setattr(session, name, value)
    if session.timeout is not None and not 0 < session.timeout < 1e9:
        raise typer.BadParameter("must be more than 0 seconds", param_hint="--timeout")


def _with_common_options(
    function: Callable[..., None], *, of_host: bool = False
) -> Callable[..., None]:
    hints = get_type_hints(function, include_extras=True)
    own = [p for p in inspect.signature(function).parameters.values() if p.name != "session"]
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("ctx", keyword, annotation=typer.Context)]
    if of_host:
        parameters.append(inspect.Parameter("host", keyword, annotation=HostArgument))
    parameters += [p.replace(kind=keyword, annotation=hints[p.name]) for p in own]
    # a command's own option of the same name goes before: --config of the conformance suite
    common = {name: each for name, each in _COMMON.items() if name not in hints}
    parameters += [
        inspect.Parameter(name, keyword, default=default, annotation=annotation)
        for name, (annotation, default) in common.items()
    ]

    def run(ctx: typer.Context, **arguments: Any) -> None:
        session = ctx.obj
        merge(session, {name: arguments.pop(name) for name in common})
        if of_host:
            session.target = arguments.pop("host")
        with operations_log(verbose=session.verbose, debug=session.debug, secrets=session.secrets):
            function(session, **arguments)

    functools.update_wrapper(run, function)
    del run.__wrapped__  # type: ignore[attr-defined] # Typer must see the signature below
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def command(function: Callable[..., None]) -> typer.Typer:
    """Make a function a command of its own."""
    takes_host = "host" in inspect.signature(function).parameters
    app = typer.Typer(**_APP)
    app.command(cls=DefaultHost if takes_host else None, context_settings=HELP_NAMES)(
        _with_common_options(function)
    )
    return app


class Group:
    """Commands of one kind. HOST is the first argument of each: ``volume create HOST``,
    ``volume attach HOST INSTANCE VOLUME``.

    Args:
        of_host: False for commands that are not all about one host.
    """

    def __init__(self, description: str, *, of_host: bool = True) -> None:
        self.app = typer.Typer(cls=SubCommands, help=description, **_APP)
        self._of_host = of_host
        # with a callback even a single command is named on the command line
        self.app.callback()(_nothing_before)

    def command(self, name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
        """Make a function a command of this group. Its session knows the host."""

        def add(function: Callable[..., None]) -> Callable[..., None]:
            self.app.command(
                name, cls=DefaultHost if self._of_host else None, context_settings=HELP_NAMES
            )(_with_common_options(function, of_host=self._of_host))
            return function

        return add


def _nothing_before() -> None:
    pass
