"""``python -m tests.peers.hyperv COMMAND...``: runs a command beside a simulated Hyper-V host whose
guests run in QEMU."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys

from hvdrivers.hyperv.simulator.guests.qemu import QemuGuests
from hvdrivers.hyperv.simulator.host import SimulatedHost
from hvdrivers.hyperv.simulator.state.host import Switch
from hvdrivers.hyperv.simulator.wsman import WsmanServer
from hvdrivers.hyperv.simulator.wsman_shell import NoEngine

USER = "operator"
SWITCH = "lan"


def main(command: list[str]) -> int:
    """The exit status of the command."""
    password = secrets.token_urlsafe(12)
    with SimulatedHost() as host:
        with host.world.lock:
            switch = Switch(SWITCH)
            host.state.switches[switch.id] = switch
            host.state.guests = QemuGuests(host.state)
        try:
            service = WsmanServer(host, users={USER: password})
        except NoEngine as error:
            sys.stderr.write(f"{error}\n")
            return 1
        with service:
            given = {
                "PORT": str(service.port),
                "USER": USER,
                "PASSWORD": password,
                "PIPES": str(host.state.pipes),
            }
            environment = os.environ | {f"HVDRIVERS_HVSIM_{k}": v for k, v in given.items()}
            return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
