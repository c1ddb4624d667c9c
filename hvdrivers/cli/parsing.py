"""How a command line is taken apart where the parser's own way does not suit.

``DefaultHost`` lets HOST be left out where HVDRIVERS_HOST is set. ``SubCommands`` answers words in
the wrong order (``volume HOST attach``).
"""

from __future__ import annotations

import os
from typing import Any

from typer.core import TyperCommand, TyperGroup

from hvdrivers.cli.report import BadUsageError

HOST_VARIABLE = "HVDRIVERS_HOST"


class DefaultHost(TyperCommand):
    """A command whose first argument is HOST.

    Where HVDRIVERS_HOST is set and the first argument names no host, the variable's host stands
    in front of the arguments. A word names a host if it is ``-``, a URL, a driver's name, or the
    name of a host in the file of hosts: so ``show lab1 web1`` means what it says with and without
    the variable.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        default = os.environ.get(HOST_VARIABLE)
        if default and not ctx.resilient_parsing:
            found, _, _ = self.make_parser(ctx).parse_args(args=list(args))
            first = found.get("host")
            if not (isinstance(first, str) and names_a_host(first, _config(ctx, found))):
                args = [default, *args]
        return super().parse_args(ctx, args)


class SubCommands(TyperGroup):
    """A group of commands."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if len(args) > 1 and args[0] not in self.commands and args[1] in self.commands:
            words = [args[1]]
            below = getattr(self.commands[args[1]], "commands", {})
            words += [word for word in args[2:3] if word in below]
            raise BadUsageError(
                f"{args[0]!r} is no command of {ctx.command_path}",
                hint="the host comes after the command:"
                f" {ctx.command_path} {' '.join(words)} {args[0]} …",
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        # whole sentences, which the formatter wraps: the parser's own list cuts them
        rows = [(name, each.get_short_help_str(limit=400)) for name, each in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def names_a_host(word: str, config: str | None) -> bool:
    """Whether a word of the command line can only be meant as HOST."""
    from importlib.metadata import entry_points  # slow: not for --help

    from hvdrivers.plugins.hosts import list_hosts

    if word == "-" or "://" in word or word in entry_points(group="hvdrivers.drivers").names:
        return True
    return word in list_hosts(config)


def _config(ctx: Any, found: dict[str, Any]) -> str | None:
    given = found.get("config")
    if not isinstance(given, str):
        given = ctx.find_root().params.get("config")
    return str(given) if given else None
