"""How much a list of 500 machines costs: run by hand, from the root of the repository.

    .venv/bin/python -m tests.performance.list_500 [PYTHON_WITH_LIBCLOUD]

Compares list_instances() with the one bulk call below it, and with Apache Libcloud's list_nodes()
on the same daemon, if a Python that has apache-libcloud and libvirt-python is given. The machine
is noisy: the ratios count, and each is taken from the best of ten runs.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from uuid import uuid4

import libvirt

from hvdrivers.guard import guarded
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.libvirt.naming import domain_name
from tests.peers.libvirtd import LibvirtPeer

_LIBCLOUD = """
import sys, time
from libcloud.compute.drivers.libvirt_driver import LibvirtNodeDriver
driver = LibvirtNodeDriver(uri=sys.argv[1])
best = 1e9
for _ in range(3):
    began = time.perf_counter()
    assert len(driver.list_nodes()) == 500
    best = min(best, time.perf_counter() - began)
print(best)
"""


def best(act: Callable[[], object], runs: int = 10) -> float:
    seconds = []
    for _ in range(runs):
        began = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def main(libcloud: str | None) -> None:
    with LibvirtPeer() as peer, closing(libvirt.open(peer.uri)) as raw:
        for number in range(500):
            uuid = uuid4()
            raw.defineXML(
                f"<domain type='qemu'><name>{domain_name(f'vm-{number}', uuid)}</name>"
                f"<uuid>{uuid}</uuid><memory unit='MiB'>64</memory><vcpu>1</vcpu>"
                "<os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"
            )
        driver = guarded(LibvirtDriver.connect(LibvirtConfig(uri=peer.uri, virt_type="qemu")))
        with driver:
            assert len(driver.list_instances()) == 500
            ours = best(driver.list_instances)
            metrics = best(driver.get_metrics)
        flags = libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_VCPU
        flags |= libvirt.VIR_DOMAIN_STATS_BALLOON
        bulk = best(lambda: raw.getAllDomainStats(flags, 0))
        each = best(lambda: [domain.info() for domain in raw.listAllDomains(0)])
        rows = [
            ("one bulk call", bulk),
            ("list_instances()", ours),
            ("get_metrics()", metrics),
            ("listAllDomains() and info() of each", each),
        ]
        if libcloud is not None:
            done = subprocess.run(
                [libcloud, "-c", _LIBCLOUD, peer.uri], capture_output=True, text=True, check=True
            )
            rows.append(("Apache Libcloud list_nodes()", float(done.stdout)))
        for what, seconds in rows:
            print(f"{what:40} {seconds * 1000:8.1f} ms {seconds / ours:8.2f} x list_instances()")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
