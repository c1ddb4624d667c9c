"""Runs a command beside a libvirt host: ``python -m tests.peers.private COMMAND...``.

See ``scripts/with-libvirt``, which the demo is started with.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack

from tests.peers.bridge import LinuxBridge
from tests.peers.libvirtd import LibvirtPeer
from tests.peers.precondition import PreconditionMissing

URI = "HVDRIVERS_DEMO_URI"
BRIDGE = "HVDRIVERS_DEMO_BRIDGE"


def _machine_has_libvirt() -> bool:
    """Whether ``qemu:///system`` answers; a daemon that asks for a password does not count."""
    if shutil.which("virsh") is None:
        return False
    try:
        done = subprocess.run(
            ["virsh", "-q", "-c", "qemu:///system", "version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=15,
            check=False,
            start_new_session=True,  # polkit's agent would ask on the terminal
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def main(command: list[str]) -> int:
    environment = dict(os.environ)
    with ExitStack() as peers:
        if URI not in environment:
            try:
                if _machine_has_libvirt():
                    environment[URI] = "qemu:///system"
                else:
                    environment[URI] = peers.enter_context(LibvirtPeer()).uri
                environment[BRIDGE] = peers.enter_context(LinuxBridge()).name
            except PreconditionMissing as error:
                print(f"precondition missing: {error}", file=sys.stderr)
        try:
            return subprocess.run(command, env=environment, check=False).returncode
        except KeyboardInterrupt:  # the command got it too
            return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
