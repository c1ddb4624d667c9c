"""``console-log`` and ``addresses``: what a guest says, and where it can be reached."""

from __future__ import annotations

import base64
import sys
import time
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from hvdrivers.cli import command as cmd
from hvdrivers.cli.command import HostArgument, InstanceArgument
from hvdrivers.cli.output import Output, emit, table
from hvdrivers.cli.report import BadUsageError, say
from hvdrivers.cli.session import Session
from hvdrivers.cli.text import console_text
from hvdrivers.contract.errors import InstanceNotFound

if TYPE_CHECKING:
    from hvdrivers.contract.driver import ComputeDriver

INTERVAL = 1.0
"""Seconds between two looks at the log with ``--follow``: the contract has no stream of it."""


def show_console_log(
    session: Session,
    host: HostArgument,
    instance: InstanceArgument,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on, until the instance is gone or Ctrl-C.")
    ] = False,
    max_bytes: Annotated[
        int, typer.Option("--bytes", metavar="N", min=1, help="At most the last N bytes.")
    ] = 65536,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="On a terminal too: the guest's own bytes, which it obeys."),
    ] = False,
) -> None:
    """Show what a guest wrote to its console.

    On a terminal escape sequences are dropped, for the guest chose them; in a pipe or a file go
    the bytes as they are.
    """
    if follow and session.output is not Output.TABLE:
        raise BadUsageError("--follow writes the log itself: not with -o json or yaml")
    with session.host(host) as driver:
        uuid = session.find(driver, instance)
        log = driver.get_console_log(uuid, max_bytes=max_bytes, timeout=session.timeout)
        if session.output is not Output.TABLE:
            described = {
                "uuid": uuid,
                "text": log.text,
                "data": base64.b64encode(log.data).decode("ascii"),
                "truncated": log.truncated,
            }
            emit(described, session.output, lambda: "")
            return
        _write(log.data, raw=raw)
        if follow:
            _follow(session, driver, uuid, log.data, raw=raw)


def _follow(session: Session, driver: ComputeDriver, uuid: UUID, seen: bytes, *, raw: bool) -> None:
    window = max(len(seen), 65536)
    while True:
        time.sleep(INTERVAL)
        try:
            log = driver.get_console_log(uuid, max_bytes=window, timeout=session.timeout)
        except InstanceNotFound:
            say("the instance is gone")
            return
        added = news(seen, log.data)
        if added is None:
            say("the log has moved on: something is missing here")
            added = log.data
        _write(added, raw=raw)
        seen = log.data


def news(seen: bytes, now: bytes) -> bytes | None:
    """What ``now`` has beyond ``seen``, both being ends of a growing log; None if they do not
    meet, because more came in between than one look shows."""
    if now.startswith(seen):
        return now[len(seen) :]
    # The window has slid: the longest end of ``seen`` that ``now`` begins with.
    start = 0
    head = now[:64]
    while head and (start := seen.find(head, start)) >= 0:
        if now.startswith(seen[start:]):
            return now[len(seen) - start :]
        start += 1
    for length in range(min(len(head), len(seen)), 0, -1):
        if seen.endswith(head[:length]):
            return now[length:]
    return None


def _write(data: bytes, *, raw: bool) -> None:
    if not data:
        return
    if raw or not sys.stdout.isatty():
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    text = console_text(data)
    sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
    sys.stdout.flush()


def show_addresses(session: Session, host: HostArgument, instance: InstanceArgument) -> None:
    """Show the addresses of a guest.

    Each with who says so: the guest's agent, a lease, or the host's neighbour table (ARP).
    """
    with session.host(host) as driver:
        found = driver.guest_addresses(session.find(driver, instance), timeout=session.timeout)
    session.emit(
        found,
        lambda: table(
            ("ADDRESS", "MAC", "SOURCE", "INTERFACE"),
            ((each.address, each.mac, each.source, each.interface) for each in found),
        ),
    )


console_log = cmd.command(show_console_log)
addresses = cmd.command(show_addresses)
