"""A simulated host and a PowerShell engine that is kept open, without WinRM between."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from hvdrivers.hyperv.simulator.host import SimulatedHost
from hvdrivers.hyperv.simulator.wsman_shell import NoEngine, find_engine, process_environment
from tests.peers.precondition import missing

LOOP = r"""
$ProgressPreference = 'SilentlyContinue'
Import-Module Hyper-V
function Get-Told($e) {
    @{ id = $e.FullyQualifiedErrorId; category = "$($e.CategoryInfo.Category)"
       reason = $e.CategoryInfo.Reason; hresult = $e.Exception.HResult
       message = $e.Exception.Message }
}
while ($null -ne ($line = [Console]::In.ReadLine())) {
    $text = [Text.Encoding]::UTF8.GetString([Convert]::FromBase64String($line))
    $ErrorActionPreference = 'Stop'
    $warned = @()
    try { $out = @(& ([scriptblock]::Create($text)) 3>&1); $answer = @{ out = $out } }
    catch { $answer = @{ error = Get-Told $_ } }
    $json = ConvertTo-Json -InputObject $answer -Depth 4 -Compress
    [Console]::Out.WriteLine([Convert]::ToBase64String([Text.Encoding]::UTF8.GetBytes($json)))
}
"""


class PowerShellError(Exception):
    """An error record that ended a script."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(told["id"], told["message"])
        self.id: str = told["id"]
        self.code = self.id.split(",")[0]
        self.category: str = told["category"]
        self.hresult: int = told["hresult"] & 0xFFFFFFFF
        self.message: str = told["message"]


class Engine:
    """One engine process of a simulated host."""

    def __init__(self, host: SimulatedHost) -> None:
        self.host = host
        text = host.prelude() + LOOP
        self.process = subprocess.Popen(
            [
                find_engine(),
                "-NoProfile",
                "-NonInteractive",
                "-EncodedCommand",
                base64.b64encode(text.encode("utf-16-le")).decode(),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**process_environment(host, {}), "HOME": os.environ["HOME"]},
        )

    def __call__(self, script: str) -> list[Any]:
        """What the script writes, through JSON. Raises PowerShellError."""
        self.send(script)
        return self.receive()

    def send(self, script: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(base64.b64encode(script.encode()) + b"\n")
        self.process.stdin.flush()

    def receive(self) -> list[Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise EOFError("the engine ended")
        answer = json.loads(base64.b64decode(line))
        if "error" in answer:
            raise PowerShellError(answer["error"])
        out: list[Any] = answer["out"]
        return out

    def one(self, script: str) -> Any:
        """The only object that the script writes."""
        (value,) = self(script)
        return value

    def kill(self) -> None:
        self.process.kill()
        self.close()

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def host() -> Iterator[SimulatedHost]:
    try:
        find_engine()
    except NoEngine as error:
        missing(str(error))
    with SimulatedHost() as simulated:
        yield simulated


@pytest.fixture(scope="module")
def engine(host: SimulatedHost) -> Iterator[Engine]:
    opened = Engine(host)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def _nothing_left(host: SimulatedHost) -> Iterator[None]:
    yield
    host.state.faults.clear()
    host.reset()
