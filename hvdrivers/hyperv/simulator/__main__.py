"""``python -m hvdrivers.hyperv.simulator``: a simulated Hyper-V host for WinRM clients."""

import argparse
import os
import secrets
import signal
import sys
import threading
from pathlib import Path

from hvdrivers.hyperv.simulator.guests.qemu import QemuGuests
from hvdrivers.hyperv.simulator.host import SimulatedHost
from hvdrivers.hyperv.simulator.state.host import Switch
from hvdrivers.hyperv.simulator.wsman import WsmanServer
from hvdrivers.hyperv.simulator.wsman_shell import ENGINE_HINT, NoEngine


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m hvdrivers.hyperv.simulator", description=__doc__
    )
    parser.add_argument("--name", default="HV1", help="the name of the host")
    parser.add_argument("--user", default="Administrator")
    parser.add_argument("--password", help="without it one is made, or HVSIM_PASSWORD is taken")
    parser.add_argument("--folder", type=Path, help="where drive C: lives; kept at the end")
    parser.add_argument(
        "--language", choices=("en", "de"), default="en", help="of messages and names"
    )
    parser.add_argument(
        "--guests", choices=("played", "real"), default="played", help="real ones run in QEMU"
    )
    parser.add_argument("--switch", default="lan", help="a virtual switch to begin with")
    given = parser.parse_args(arguments)
    password = given.password or os.environ.get("HVSIM_PASSWORD") or secrets.token_urlsafe(12)
    with SimulatedHost(given.name, folder=given.folder, language=given.language) as host:
        with host.world.lock:
            switch = Switch(given.switch)
            host.state.switches[switch.id] = switch
            if given.guests == "real":
                host.state.guests = QemuGuests(host.state)
        try:
            service = WsmanServer(host, users={given.user: password}, machine=given.name)
        except NoEngine as error:
            sys.stderr.write(f"{error}\nhint: {ENGINE_HINT}\n")
            return 1
        with service:
            sys.stdout.write(
                f"endpoint http://127.0.0.1:{service.port}/wsman\n"
                f"user     {given.user}\npassword {password}\n"
            )
            sys.stdout.flush()
            stopped = threading.Event()
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: stopped.set())
            stopped.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
