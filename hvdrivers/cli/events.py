"""``events``: what changes on a host, as it changes."""

from __future__ import annotations

import errno
import select
import sys
import threading
import time
from typing import Annotated

import typer

from hvdrivers.cli import command as cmd
from hvdrivers.cli.command import HostArgument
from hvdrivers.cli.output import Output, to_data, to_json, to_yaml, write
from hvdrivers.cli.session import Session
from hvdrivers.cli.text import shown
from hvdrivers.contract.events import EventStream
from hvdrivers.models.events import DeviceEvent, Event, ResyncEvent


def follow_events(
    session: Session,
    host: HostArgument,
    count: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="End after N events.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option("--for", metavar="SECONDS", min=0, help="End after so long.")
    ] = None,
) -> None:
    """Follow what changes on a host.

    One line per event; with -o json one JSON object per line. The first event, and the one after
    each lost connection, is a resync: the state that every instance has at that moment. Ends with
    --count or --for, or with Ctrl-C.
    """
    with session.host(host) as driver, driver.watch(timeout=session.timeout) as stream:
        unread = _end_when_unread(stream)
        end = None if seconds is None else time.monotonic() + seconds
        delivered = 0
        while not stream.closed and (count is None or delivered < count):
            left = 3600.0 if end is None else end - time.monotonic()
            event = stream.next(max(0.0, left))
            if event is not None:
                _write(event, session.output)
                delivered += 1
            elif end is not None and time.monotonic() >= end:
                return
        if unread.is_set():
            raise BrokenPipeError(errno.EPIPE, "nobody reads what is written")


def _end_when_unread(stream: EventStream) -> threading.Event:
    """Close the stream when the reader of the standard output has gone (``| head -1``): the next
    event, at which a write would tell it, may be hours away."""
    unread = threading.Event()
    try:
        output = sys.stdout.fileno()
        poll = select.poll()
    except (OSError, ValueError, AttributeError):
        return unread  # no file, or a system without poll()
    poll.register(output, 0)  # an error, or the end of the other side

    def wait() -> None:
        poll.poll()
        unread.set()
        stream.close()

    threading.Thread(target=wait, name="hvdrivers-unread", daemon=True).start()
    return unread


def _write(event: Event, output: Output) -> None:
    if output is Output.JSON:
        write(to_json(to_data(event), indent=None))
    elif output is Output.YAML:
        write(f"---\n{to_yaml(to_data(event))}")
    else:
        write(shown(line(event)))


def line(event: Event) -> str:
    """An event in one line."""
    at = event.at.astimezone().isoformat(timespec="milliseconds")
    if isinstance(event, ResyncEvent):
        states = " ".join(f"{uuid}={state}" for uuid, state in sorted(event.states.items()))
        return f"{at} resync {len(event.states)} instances {states}".rstrip()
    if isinstance(event, DeviceEvent):
        return f"{at} {event.uuid} device {event.device} {event.kind}"
    return f"{at} {event.uuid} {event.kind} {event.state or 'gone'}"


events = cmd.command(follow_events)
