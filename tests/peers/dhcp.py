"""Addresses for guests: the DHCP server of busybox on a bridge of a peer."""

from __future__ import annotations

import subprocess
from pathlib import Path

from hvdrivers.testing.guestimage.inputs import find_static_busybox
from tests.peers.place import Place
from tests.peers.precondition import PreconditionMissing
from tests.peers.waiting import wait_until


class DhcpServer:
    """Serves a network on a device until the janitor of the peer ends it.

    The janitor finds it by ``root``, which its command line names.

    Attributes:
        address: the host's own address in the network.
    """

    def __init__(self, device: str, root: Path) -> None:
        self._place = Place("dhcp", 512)
        try:
            self.address, self._process = _serve(device, root, self._place.number)
        except BaseException:
            self._place.close()
            raise

    def wait(self) -> None:
        """Take note that it has ended."""
        self._process.wait(10)
        self._place.close()


def _serve(device: str, root: Path, number: int) -> tuple[str, subprocess.Popen[bytes]]:
    busybox = find_static_busybox()
    if busybox is None:
        raise PreconditionMissing("busybox (package busybox-static), for its DHCP server")
    # a /24 of the block for benchmarks (RFC 2544), which nobody routes
    net = f"198.{18 + number // 256}.{number % 256}"
    run_ip("address", "add", f"{net}.1/24", "dev", device).check_returncode()
    configuration, leases = root / "udhcpd.conf", root / "leases"
    leases.touch()
    configuration.write_text(
        f"start {net}.10\nend {net}.250\ninterface {device}\n"
        f"lease_file {leases}\npidfile {root}/udhcpd.pid\n"
        "option subnet 255.255.255.0\noption lease 3600\n"
    )
    process = subprocess.Popen(
        # nobody has the address that it offers: it need not ask for two seconds
        [str(busybox), "udhcpd", "-f", "-a", "10", str(configuration)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until(
        lambda: (root / "udhcpd.pid").exists() or process.poll() is not None,
        timeout=120,
        what="the DHCP server runs",
    )
    return f"{net}.1", process


def run_ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
