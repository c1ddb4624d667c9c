"""Shell completion of names: hosts from the file, instances from the host itself.

It runs at every press of the tab key: it is quick or says nothing, and never says why. What it
offers is put into a command line, so it offers plain words only (``text.is_safe_word``).
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import typer

from hvdrivers.cli.text import is_safe_word, shown

DEADLINE = 2.0
"""Seconds that a host has to answer."""

_T = TypeVar("_T")


def _quickly(call: Callable[[], list[_T]]) -> list[_T]:
    """The result, or nothing if there is an error or no result in time."""
    results: list[_T] = []

    def work() -> None:
        with contextlib.suppress(BaseException):  # no result is all that completion can say
            results.extend(call())

    logging.getLogger("hvdrivers").addHandler(logging.NullHandler())  # else it warns on stderr
    # daemon: a host that does not answer must not keep the shell waiting
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    return list(results)


def _config(ctx: typer.Context) -> Path | None:
    for context in (ctx, ctx.find_root()):
        given = context.params.get("config")
        if given:
            return Path(given)
    return None


def complete_host(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Hosts of the file, and drivers."""

    def find() -> list[tuple[str, str]]:
        from importlib.metadata import entry_points

        from hvdrivers.plugins.hosts import list_hosts

        drivers = sorted(set(entry_points(group="hvdrivers.drivers").names))
        hosts = list_hosts(_config(ctx))
        return [*hosts.items(), *((name, "driver") for name in drivers)]

    return [
        (name, what)
        for name, what in _quickly(find)
        if name.startswith(incomplete) and is_safe_word(name)
    ]


def complete_instance(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Names of instances; the UUID of one whose name cannot be typed, or is not the only one."""
    host = ctx.params.get("host") or (ctx.parent.params.get("host") if ctx.parent else None)
    if not isinstance(host, str):
        return []

    def find() -> list[tuple[str, str]]:
        from hvdrivers.cli.session import connect, host_named

        with connect(host_named(host), _config(ctx)) as driver:
            found = driver.list_instances(timeout=DEADLINE)
        names = [each.name for each in found]
        return [
            (
                each.name
                if is_safe_word(each.name) and names.count(each.name) == 1
                else str(each.uuid),
                f"{shown(each.state)} {each.uuid}",
            )
            for each in found
        ]

    return [each for each in _quickly(find) if each[0].startswith(incomplete)]
