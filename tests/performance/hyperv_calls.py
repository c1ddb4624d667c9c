"""What a kept PowerShell saves on Hyper-V: ``make bench``, or from the root of the repository

    .venv/bin/python -m tests.performance.hyperv_calls

Compares the driver with pywinrm's ``Session.run_ps`` doing the same (a shell and a process for each
request), and with one process a request in a shell that stays. Each reads at least the same of the
same machines: get_instance() reads disks and NICs too. The host is simulated, on the same machine,
and its engine is PowerShell 7 on Linux: the ratios count, each from the best of some runs. A real
host adds the start of its module to each process, and the distance to each message.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile
from uuid import UUID

import winrm

from hvdrivers.guard import guarded
from hvdrivers.hyperv.config import HypervConfig
from hvdrivers.hyperv.driver import HypervDriver
from hvdrivers.hyperv.simulator.host import SimulatedHost
from hvdrivers.hyperv.simulator.wsman import WsmanServer
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.instance import Flavor, InstanceSpec
from tests.performance.timing import best

_MACHINES = 100
_FIELDS = (
    "$ProgressPreference = 'SilentlyContinue'; $ErrorActionPreference = 'Stop';"
    " Import-Module Hyper-V; {source} |"
    " ForEach-Object {{ @{{ id = [string]$_.Id; name = [string]$_.Name;"
    " state = $_.State.ToString(); cpus = [int]$_.ProcessorCount;"
    " memory = [long]$_.MemoryStartup }} }} | ConvertTo-Json -Compress"
)


def _answered(out: bytes, word: str) -> None:
    assert word.encode() in out.lower(), out[:200]


class _OneProcess:
    """A shell that stays, and a process for each request."""

    def __init__(self, protocol: winrm.Protocol) -> None:
        self._protocol = protocol
        self._shell = protocol.open_shell(codepage=65001)

    def run(self, script: str) -> bytes:
        packed = base64.b64encode(script.encode("utf-16-le")).decode()
        arguments = ["-NoProfile", "-NonInteractive", "-EncodedCommand", packed]
        command = self._protocol.run_command(self._shell, "powershell", arguments)
        out, error, status = self._protocol.get_command_output(self._shell, command)
        self._protocol.cleanup_command(self._shell, command)
        assert status == 0, error[:500]
        return bytes(out)

    def close(self) -> None:
        self._protocol.close_shell(self._shell)


def main() -> None:
    """Print the times and the ratios."""
    with (
        SimulatedHost() as host,
        WsmanServer(host, users={"operator": "secret"}) as service,
        NamedTemporaryFile(suffix=".raw") as disk,
    ):
        disk.truncate(1 << 20)
        image = FileImage(path=Path(disk.name), format=ImageFormat.RAW)
        options = {"username": "operator", "password": "secret"}
        config = HypervConfig.model_validate(
            {
                "host": "127.0.0.1",
                "port": service.port,
                "tls": False,
                "authentication": "basic",
                **options,
            }
        )
        url = f"http://127.0.0.1:{service.port}/wsman"
        session = winrm.Session(url, auth=("operator", "secret"), transport="plaintext")
        protocol = winrm.Protocol(endpoint=url, transport="plaintext", **options)
        with guarded(HypervDriver.connect(config)) as driver:
            uuids: list[UUID] = []
            for number in range(_MACHINES):
                flavor = Flavor(vcpus=1, memory_mib=64)
                spec = InstanceSpec(name=f"vm-{number}", flavor=flavor, image=image, start=False)
                uuids.append(driver.spawn(spec).uuid)
            machine = str(next(iter(host.state.machines)))
            one = _FIELDS.format(source=f"Hyper-V\\Get-VM -Id {machine}")
            all_ = _FIELDS.format(source="Hyper-V\\Get-VM")
            process = _OneProcess(protocol)
            tasks: dict[str, tuple[Callable[[], object], str, str]] = {
                "one machine": (lambda: driver.get_instance(uuids[0]), one, machine),
                f"a list of {_MACHINES}": (driver.list_instances, all_, "vm-99"),
            }
            for what, (call, script, word) in tasks.items():
                ours = best(call, 20)
                kept = best(lambda s=script, w=word: _answered(process.run(s), w), 4)  # type: ignore[misc]
                each = best(lambda s=script, w=word: _answered(session.run_ps(s).std_out, w), 4)  # type: ignore[misc]
                print(f"{what}:")
                for name, seconds in (
                    ("the driver", ours),
                    ("one process a request", kept),
                    ("Session.run_ps", each),
                ):
                    print(f"  {name:24} {seconds * 1000:8.1f} ms {seconds / ours:8.1f} x")
            process.close()


if __name__ == "__main__":
    main()
