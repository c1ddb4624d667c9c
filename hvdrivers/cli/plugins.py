"""``drivers`` and ``hosts``: what is installed, and what the file of hosts names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hvdrivers.cli import command as cmd
from hvdrivers.cli.output import details, table
from hvdrivers.cli.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.table import Table

    from hvdrivers.plugins import PluginInfo


def list_drivers(session: Session) -> None:
    """List the installed drivers.

    A driver that cannot be used is listed with the reason and what to do about it; it does not
    fail the command. With -v the capabilities of each.
    """
    from hvdrivers.plugins import list_plugins

    found = list_plugins()

    def view() -> Table:
        if session.verbose:
            fields: dict[str, object] = {}
            for each in found:
                fields[each.name] = f"{each.distribution} {each.version} ({each.module})"
                fields[f"  {each.name} state"] = "ready" if each.usable else "broken"
                if each.schemes:
                    fields[f"  {each.name} URLs"] = [f"{scheme}://" for scheme in each.schemes]
                if not each.usable:
                    fields[f"  {each.name} reason"] = each.reason
                    fields[f"  {each.name} hint"] = each.hint
                fields[f"  {each.name} capabilities"] = ", ".join(each.capabilities)
            return details(fields)
        return table(("DRIVER", "PACKAGE", "VERSION", "STATE", "URLS", "REASON"), _rows(found))

    session.emit(found, view)


def list_hosts(session: Session) -> None:
    """List the hosts of the file of hosts.

    The file is the one of --config, or hvdrivers/hosts.toml in your configuration directory.
    """
    from hvdrivers.plugins import list_hosts as read

    found = read(session.config)
    session.emit(
        [{"name": name, "driver": driver} for name, driver in found.items()],
        lambda: table(("HOST", "DRIVER"), found.items()),
    )


def _rows(found: Iterable[PluginInfo]) -> Iterator[tuple[object, ...]]:
    for each in found:
        state = "ready" if each.usable else "broken"
        yield each.name, each.distribution, each.version, state, each.schemes, each.reason
        if each.hint:
            yield *[" "] * 5, f"hint: {each.hint}"


drivers = cmd.command(list_drivers)
hosts = cmd.command(list_hosts)
