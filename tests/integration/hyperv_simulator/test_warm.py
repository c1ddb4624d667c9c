"""Engines that serve one shell after the other: what one has left, the next does not find; and what
a shell is at when it is killed ends there."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("winrm", reason="precondition missing: pip install '.[hyperv]'")

from hvdrivers.hyperv.simulator.warm import WarmEngines
from hvdrivers.hyperv.simulator.wsman_shell import (
    AnyCommand,
    BareHost,
    NoEngine,
    find_engine,
    process_environment,
    start_process,
)
from tests.peers.precondition import missing

LOOP = """
[Console]::Out.WriteLine('HV1 nonce hello reply 1')
while ($null -ne ($line = [Console]::In.ReadLine())) {
    $part = $line.Split(' ')
    if ($part[1] -ne 'run') { continue }
    $value = & ([scriptblock]::Create($part[2].Replace('~', ' ')))
    [Console]::Out.WriteLine("HV1 nonce $($part[0]) reply $value")
}
"""
"""Runs what a request holds, with ``~`` for each space."""
SIDE = """
[Console]::Out.WriteLine('HV1 nonce hello reply 1')
$shells = [System.Collections.ArrayList]::new()
while ($null -ne ($line = [Console]::In.ReadLine())) {
    $part = $line.Split(' ')
    $shell = [powershell]::Create([initialsessionstate]::CreateDefault2())
    [void]$shells.Add($shell.AddScript($part[5].Replace('~', ' ')))
    [void]$shell.BeginInvoke()
}
foreach ($shell in $shells) { $shell.Stop() }
"""
"""The same, beside the loop, as the driver's does."""


@pytest.fixture
def engines() -> Iterator[WarmEngines]:
    try:
        find_engine()
    except NoEngine as error:
        missing(str(error))
    made = WarmEngines()
    yield made
    made.close()


def started(engines: WarmEngines, loop: str = LOOP) -> AnyCommand:
    text = base64.b64encode(loop.encode("utf-16-le")).decode()
    arguments = ["-NoProfile", "-NonInteractive", "-EncodedCommand", text]
    command = engines.start(arguments, process_environment(BareHost(), {}))
    assert line_of(command) == "HV1 nonce hello reply 1"
    return command


def line_of(command: AnyCommand) -> str:
    found = b""
    while not found.endswith(b"\n"):
        assert command.wait(120)
        streams, code = command.take(1 << 16)
        assert code is None, streams
        found += streams.get("stdout", b"")
    return found.decode().strip()


def asked(command: AnyCommand, number: int, text: str) -> str:
    command.write(f"{number} run {text.replace(' ', '~')} .\n".encode(), end=False)
    return line_of(command).removeprefix(f"HV1 nonce {number} reply ")


def test_next_shell_gets_the_process_and_finds_nothing_in_it(engines: WarmEngines) -> None:
    first = started(engines)
    process = asked(first, 1, "$PID")
    assert asked(first, 2, "$global:left = 1; function global:f { 2 }; $left + (f)") == "3"
    assert asked(first, 3, "Set-Location /tmp; [string]$PWD") == "/tmp"
    first.kill()
    second = started(engines)
    assert asked(second, 1, "$PID") == process
    assert asked(second, 2, "[string]$left + [bool](Test-Path function:f)") == "False"
    assert asked(second, 3, "[string]$PWD") != "/tmp"


def test_shell_that_is_at_something_dies_with_its_process(
    engines: WarmEngines, tmp_path: Path
) -> None:
    begun, ended = tmp_path / "begun", tmp_path / "ended"
    first = started(engines)
    process = asked(first, 1, "$PID")
    work = (
        f"try {{ [IO.File]::WriteAllText('{begun}', ''); [Threading.Thread]::Sleep(60000) }}"
        f" finally {{ [IO.File]::WriteAllText('{ended}', '') }}"
    )
    first.write(f"2 run {work.replace(' ', '~')} .\n".encode(), end=False)
    second = started(engines)  # it takes longer than the other one to begin
    while not begun.exists():
        asked(second, 1, "1")
    first.kill()
    assert not Path("/proc", process).exists()
    assert asked(second, 2, "$PID") != process
    assert not ended.exists(), "a process that was killed has cleaned up"


@pytest.mark.parametrize(("operation", "kept"), [("Events", True), ("Spawn", False)])
def test_shell_that_only_waits_for_events_gives_its_process_back(
    engines: WarmEngines, tmp_path: Path, operation: str, kept: bool
) -> None:
    begun = tmp_path / "begun"
    first = started(engines, SIDE)
    work = f"[IO.File]::WriteAllText('{begun}', [string]$PID)"
    work += "; while ($true) { Start-Sleep -Milliseconds 50 }"
    line = f"2 run 1 2 {operation} {work.replace(' ', '~')} ."
    first.write(f"{line}\n".encode(), end=False)
    end = time.monotonic() + 120
    while not (begun.exists() and begun.read_text()):
        assert time.monotonic() < end
        time.sleep(0.02)
    first.kill()
    second = started(engines)
    assert (asked(second, 1, "$PID") == begun.read_text()) == kept


def test_shell_whose_reply_is_half_out_gives_its_process_back(engines: WarmEngines) -> None:
    first = started(engines)
    process = asked(first, 1, "$PID")
    half = "[Console]::Out.Write('HV1 nonce 2 reply '); [Threading.Thread]::Sleep(300)"
    first.write(f"2 run {half.replace(' ', '~')} .\n".encode(), end=False)
    assert first.wait(120)
    first.kill()
    assert asked(started(engines), 1, "$PID") == process


@pytest.mark.parametrize("warm", [True, False])
def test_a_process_that_has_ended_is_not_killed_again(
    engines: WarmEngines, monkeypatch: pytest.MonkeyPatch, warm: bool
) -> None:
    """Its number may be that of somebody else's process by then."""
    command = (
        started(engines) if warm else start_process(["-Help"], process_environment(BareHost(), {}))
    )
    command.write(b"1 run [Threading.Thread]::Sleep(60000) .\n", end=False)
    command.kill()
    killed: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda process, _signal: killed.append(process))
    command.kill()
    assert killed == []


def test_every_process_ends_with_the_server(engines: WarmEngines) -> None:
    busy, idle = started(engines), started(engines)
    processes = [asked(each, 1, "$PID") for each in (busy, idle)]
    assert len(set(processes)) == 2
    idle.kill()
    engines.close()
    assert not any(Path("/proc", each).exists() for each in processes)
