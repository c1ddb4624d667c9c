"""``console-log``, ``console``, ``screenshot``, ``addresses``: what a guest shows, where it is."""

from __future__ import annotations

import base64
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO
from uuid import UUID

import typer

from hvdrivers.cli import command as cmd
from hvdrivers.cli.command import HostArgument, InstanceArgument
from hvdrivers.cli.instances import UNTOLD
from hvdrivers.cli.output import Output, details, emit, table
from hvdrivers.cli.parse import checked
from hvdrivers.cli.report import BadUsageError, say
from hvdrivers.cli.session import Session
from hvdrivers.cli.text import console_text
from hvdrivers.contract.errors import InstanceNotFound, NotSupported

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
        write_guest_bytes(log.data, sys.stdout, raw=raw)
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
        write_guest_bytes(added, sys.stdout, raw=raw)
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


def write_guest_bytes(data: bytes, stream: TextIO, *, raw: bool = False) -> None:
    """Bytes that the guest chose: as they are in a pipe or a file; to a terminal as text, without
    what it would obey, unless ``raw``."""
    if not data:
        return
    if raw or not stream.isatty():
        stream.flush()
        stream.buffer.write(data)
        stream.buffer.flush()
        return
    text = console_text(data)
    stream.write(text if text.endswith("\n") else f"{text}\n")
    stream.flush()


def show_addresses(session: Session, host: HostArgument, instance: InstanceArgument) -> None:
    """Show the addresses of a guest.

    Each with who says so: the guest's agent, a lease, or the host's neighbour table (ARP).
    """
    with session.host(host) as driver:
        found = driver.guest_addresses(session.find(driver, instance), timeout=session.timeout)
    if not found:
        say(f"none known: {UNTOLD}")
    session.emit(
        found,
        lambda: table(
            ("ADDRESS", "MAC", "SOURCE", "INTERFACE"),
            ((each.address, each.mac, each.source, each.interface) for each in found),
        ),
    )


def open_console(
    session: Session,
    host: HostArgument,
    instance: InstanceArgument,
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="serial, vnc, spice, mks, webmks or rdp.",
            show_default=False,
        ),
    ],
    *,
    attached: Annotated[
        bool,
        typer.Option(
            "--attach",
            help="Connect this terminal to the serial console; Ctrl-] leaves.",
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --attach: take it from another client.")
    ] = False,
) -> None:
    """Show where a console can be reached, with its ticket.

    The ticket is written in clear: it opens the console to its reader. With --attach the guest's
    own bytes go to the terminal, which obeys them.
    """
    from hvdrivers.models.console import ConsoleKind

    wanted = checked("KIND", ConsoleKind, kind)  # type: ignore[arg-type]
    if attached:
        if wanted is not ConsoleKind.SERIAL:
            raise BadUsageError("--attach goes with serial: other consoles need a viewer")
        _attach(session, host, instance, force=force)
        return
    if force:
        raise BadUsageError("--force goes with --attach")
    with session.host(host) as driver:
        uuid = session.find(driver, instance)
        found = driver.get_console(uuid, wanted, timeout=session.timeout)
    ticket = None if found.ticket is None else found.ticket.get_secret_value()
    shown = found.model_dump(mode="json") | {"ticket": ticket}
    session.emit(shown, lambda: details(shown))


def _attach(session: Session, host: str, instance: str, *, force: bool) -> None:
    from hvdrivers.cli.serial import attach, require_terminal
    from hvdrivers.guard import serial_lines

    require_terminal()
    with session.host(host) as driver:
        uuid = session.find(driver, instance)
        lines = serial_lines(driver)
        if lines is None:
            raise NotSupported(
                "this driver carries no serial lines", hint="without --attach: where it is reached"
            )
        with lines.open_serial(uuid, force=force, timeout=session.timeout) as line:
            attach(line)


def take_screenshot(
    session: Session,
    host: HostArgument,
    instance: InstanceArgument,
    target: Annotated[
        Path, typer.Argument(metavar="FILE", help="A new file here.", show_default=False)
    ],
) -> None:
    """Write a picture of an instance's screen to a file."""
    with session.host(host) as driver:
        uuid = session.find(driver, instance)
        found = driver.screenshot(uuid, timeout=session.timeout)
    try:
        with target.open("xb") as file:
            file.write(found.data)
    except OSError as error:
        raise BadUsageError(f"FILE: {target}: {error.strerror}") from error
    result = {"file": str(target), "media_type": found.media_type, "bytes": len(found.data)}
    session.emit(result, lambda: details(result))


console = cmd.command(open_console)
screenshot = cmd.command(take_screenshot)
console_log = cmd.command(show_console_log)
addresses = cmd.command(show_addresses)
