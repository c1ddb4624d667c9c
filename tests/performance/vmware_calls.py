"""What a list of 1,000 machines of a vCenter costs: ``make bench``, or from the clone's root

    .venv/bin/python -m tests.performance.vmware_calls

Compares list_foreign() with the one RetrievePropertiesEx below it, with a loop that reads each
machine by itself, as pyVmomi's lazy properties do (timed on 100 machines and multiplied), and with
Apache Libcloud's list_nodes(), if it is installed. The server is a simulator on the same machine:
the ratios count, each from the best of some runs.
"""

from __future__ import annotations

from pyVmomi import vim, vmodl

from hvdrivers.guard import guarded
from hvdrivers.vmware.config import VmwareConfig
from hvdrivers.vmware.conformance.raw_server import RawServer
from hvdrivers.vmware.driver import VmwareDriver
from tests.peers.vcsim import VcsimPeer
from tests.performance.timing import best, pairs

_PC = vmodl.query.PropertyCollector
_PATHS = ["config.instanceUuid", "runtime.powerState", "name"]
_SOME = 100


def main() -> None:
    """Print the ratios."""
    with VcsimPeer("vpx", machines=1000) as peer:
        config = VmwareConfig(**peer.options)
        server, raw = RawServer(config), VmwareDriver.connect(config)
        pool = raw.places.get().root_pool
        path = _PC.TraversalSpec(name="vm", type=vim.ResourcePool, path="vm", skip=False)
        spec = _PC.FilterSpec(
            propSet=[_PC.PropertySpec(type=vim.VirtualMachine, pathSet=_PATHS)],
            objectSet=[
                _PC.ObjectSpec(
                    obj=vim.ResourcePool(pool._moId, server.instance._stub),
                    skip=True,
                    selectSet=[path],
                )
            ],
        )
        collector = server.content.propertyCollector
        found = collector.RetrievePropertiesEx([spec], _PC.RetrieveOptions()).objects
        machines = [each.obj for each in found][:_SOME]
        with guarded(raw) as driver:
            assert len(driver.list_foreign()) == len(found) == 1000
            bare = lambda: collector.RetrievePropertiesEx([spec], _PC.RetrieveOptions())  # noqa: E731
            row = pairs("list of 1000, beside the bare call", driver.list_foreign, bare, 9)
            metrics = best(driver.get_metrics, 5)
        ours = row.ours
        naive = best(lambda: [(each.name, each.runtime.powerState) for each in machines], 2)
        naive *= len(found) / _SOME
        print(row)
        print(f"metrics {metrics * 1000:.0f} ms, ratio to the list {metrics / ours:.2f}")
        print(f"one by one: {naive * 1000:.0f} ms, ratio {ours / naive:.3f}")
        server.drop()
        libcloud = _libcloud(peer)
        if libcloud is not None:
            print(f"Apache Libcloud: {libcloud * 1000:.0f} ms, ratio {ours / libcloud:.3f}")


def _libcloud(peer: VcsimPeer) -> float | None:
    """Seconds that list_nodes() takes. None, and a line that says why: it cannot be had."""
    try:
        from libcloud.compute.drivers.vsphere import VSphereNodeDriver
    except ImportError:
        print("Apache Libcloud is not installed: pip install apache-libcloud")
        return None
    options = peer.options
    try:
        driver = VSphereNodeDriver(
            options["host"],
            options["username"],
            options["password"],
            port=options["port"],
            verify_ssl=False,
        )
        return best(driver.list_nodes, 2)
    except Exception as error:  # noqa: BLE001 - whatever it raises is the answer
        print(f"Apache Libcloud cannot list this server: {type(error).__name__}: {error}")
        return None


if __name__ == "__main__":
    main()
