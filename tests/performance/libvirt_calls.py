"""What the libvirt driver costs beside the bare client library: ``make bench``, or

    .venv/bin/python -m tests.performance.libvirt_calls

Each row does the same work twice on one private daemon: by the driver, and by libvirt-python alone
with the driver's own domain XML, without its checks, records and undo. Apache Libcloud stands
beside both where it can do the work, if it is installed. Machines have no operating system, so a
start costs what QEMU takes. The ratios count: each is the middle of some pairs that took turns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID, uuid4

import libvirt

from hvdrivers.contract.driver import ComputeDriver
from hvdrivers.guard import guarded, unguarded
from hvdrivers.libvirt.config import LibvirtConfig
from hvdrivers.libvirt.driver import LibvirtDriver
from hvdrivers.libvirt.event_hub import Marked
from hvdrivers.libvirt.metadata import MARK_NAMESPACE
from hvdrivers.libvirt.naming import domain_name
from hvdrivers.models.image import FileImage, ImageFormat
from hvdrivers.models.instance import Flavor, InstanceSpec
from hvdrivers.models.migration import Destination
from tests.peers.libvirtd import LibvirtPeer
from tests.performance.timing import Row, pairs

_MACHINES = 500
_TURNS = 15
_LISTS = 51
_THREADS = 8
_SPAWNS = 20
_FLAVOR = Flavor(vcpus=1, memory_mib=64)
_SNAPSHOT = "<domainsnapshot><name>{}</name></domainsnapshot>"


class Bare:
    """What somebody writes who has libvirt-python alone."""

    def __init__(self, peer: LibvirtPeer, pattern: str) -> None:
        """``pattern``: the XML of a machine that the driver has made."""
        self.connection = libvirt.open(peer.uri)
        self.pool = self.connection.storagePoolLookupByName("hvdrivers")
        self.consoles = self.connection.storagePoolLookupByName("hvdrivers-consoles")
        self._pattern = pattern
        self._uuid = _found(r"<uuid>(.+)</uuid>", pattern)
        self._name = _found(r"<name>(.+)</name>", pattern)
        disk = self.pool.storageVolLookupByName(f"{self._uuid}.root").XMLDesc(0)
        self._disk = re.sub(r"<(key|allocation|physical)\b.*?</\1>", "", disk)

    def spawn(self, *, start: bool = True) -> UUID:
        """Three calls: the disk over the cached image, the definition, the start."""
        uuid = uuid4()
        self.pool.createXML(self._disk.replace(self._uuid, str(uuid)), 0)
        named = self._pattern.replace(self._name, domain_name("bare", uuid))
        domain = self.connection.defineXML(named.replace(self._uuid, str(uuid)))
        if start:
            domain.create()
        return uuid

    def destroy(self, uuid: UUID) -> None:
        """Eight calls: as after the driver, no file is left. The daemon has made the console log,
        so its pool has not seen it."""
        domain = self.connection.lookupByUUIDString(str(uuid))
        with suppress(libvirt.libvirtError):
            domain.destroy()
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA)
        self.pool.storageVolLookupByName(f"{uuid}.root").delete(0)
        self.consoles.refresh(0)
        self.consoles.storageVolLookupByName(f"{uuid}.console.log").delete(0)

    def files(self) -> set[str]:
        """The names of all files in the two pools."""
        found: set[str] = set()
        for pool in (self.pool, self.consoles):
            pool.refresh(0)
            found |= {each.name() for each in pool.listAllVolumes(0)}
        return found

    def get(self, uuid: UUID) -> object:
        """Three calls."""
        domain = self.connection.lookupByUUIDString(str(uuid))
        return domain.info(), domain.XMLDesc(0)


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found is not None, pattern
    return found[1]


def _spec(image: FileImage, **changes: object) -> InstanceSpec:
    values = {"name": "ours", "flavor": _FLAVOR, "image": image} | changes
    return InstanceSpec.model_validate(values)


def _life(driver: ComputeDriver, bare: Bare, image: FileImage) -> Iterator[Row]:
    ours: list[UUID] = []
    theirs: list[UUID] = []
    before = bare.files()
    yield pairs(
        "spawn, image cached",
        lambda: ours.append(driver.spawn(_spec(image)).uuid),
        lambda: theirs.append(bare.spawn()),
        _TURNS,
    )
    one, other = ours[0], theirs[0]
    mine = bare.connection.lookupByUUIDString(str(one))
    numbers = count()
    live = libvirt.VIR_DOMAIN_AFFECT_LIVE
    hub = unguarded(driver, LibvirtDriver).hub

    def renew() -> None:
        """Another client changes the text; the event of that has come before the look begins."""
        number = next(numbers)
        mark = f"{MARK_NAMESPACE}{number}"
        with hub.listening() as events:
            about = libvirt.VIR_DOMAIN_METADATA_DESCRIPTION
            mine.setMetadata(about, f"text {number}", None, None, live)
            mine.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, None, None, mark, live)
            assert events.wait(lambda event: isinstance(event, Marked), 10)

    def get() -> object:
        return driver.get_instance(one)

    yield pairs("get, as at the last look", get, lambda: bare.get(other), 200)
    yield pairs("get, of a text that is new", get, lambda: bare.get(other), 200, before=renew)
    raw = bare.connection.lookupByUUIDString(str(other))
    yield pairs(
        "snapshot of a running machine, with memory",
        lambda: driver.create_snapshot(one, f"s-{uuid4().hex[:6]}", memory=True),
        lambda: raw.snapshotCreateXML(_SNAPSHOT.format(uuid4().hex[:6]), 0),
        _TURNS,
    )
    for each in driver.list_snapshots(one):
        driver.delete_snapshot(one, each.id)
    for snapshot in raw.listAllSnapshots(0):
        snapshot.delete(0)
    yield pairs(
        "destroy", lambda: driver.destroy(ours.pop()), lambda: bare.destroy(theirs.pop()), _TURNS
    )
    # both have done the same work
    assert bare.files() == before


def _many_spawns(driver: ComputeDriver, bare: Bare, image: FileImage) -> Iterator[Row]:
    def spread(act: Callable[[], UUID], end: Callable[[UUID], None]) -> Callable[[], object]:
        def run() -> None:
            with ThreadPoolExecutor(_THREADS) as pool:
                made = [each.result() for each in [pool.submit(act) for _ in range(_SPAWNS)]]
            for uuid in made:
                end(uuid)

        return run

    yield pairs(
        f"{_SPAWNS} spawns by {_THREADS} threads, and their ends",
        spread(lambda: driver.spawn(_spec(image)).uuid, driver.destroy),
        spread(bare.spawn, bare.destroy),
        3,
    )


def _lists(driver: ComputeDriver, bare: Bare, peer: LibvirtPeer) -> Iterator[Row]:
    for number in range(_MACHINES):
        uuid = uuid4()
        bare.connection.defineXML(
            f"<domain type='qemu'><name>{domain_name(f'vm-{number}', uuid)}</name>"
            f"<uuid>{uuid}</uuid><memory unit='MiB'>64</memory><vcpu>1</vcpu>"
            "<os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"
        )
    assert len(driver.list_instances()) == _MACHINES
    flags = libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_VCPU
    flags |= libvirt.VIR_DOMAIN_STATS_BALLOON
    connection = bare.connection
    bulk = lambda: connection.getAllDomainStats(flags, 0)  # noqa: E731
    yield pairs(f"list of {_MACHINES}, beside the bulk call", driver.list_instances, bulk, _LISTS)
    yield pairs(
        f"list of {_MACHINES}, beside info() of each",
        driver.list_instances,
        lambda: [each.info() for each in connection.listAllDomains(0)],
        3,
    )
    every = lambda: connection.getAllDomainStats(0, 0)  # noqa: E731
    yield pairs(f"metrics of {_MACHINES}, beside the bulk call", driver.get_metrics, every, _LISTS)
    try:
        from libcloud.compute.drivers.libvirt_driver import LibvirtNodeDriver
    except ImportError:
        print("Apache Libcloud is not installed: pip install apache-libcloud")
    else:
        libcloud = LibvirtNodeDriver(uri=peer.uri)
        yield pairs(
            f"list of {_MACHINES}, beside Apache Libcloud",
            driver.list_instances,
            libcloud.list_nodes,
            3,
        )


@contextmanager
def _shared_hosts(
    folder: Path,
) -> Iterator[tuple[ComputeDriver, ComputeDriver, LibvirtPeer, LibvirtPeer]]:
    with LibvirtPeer() as here, LibvirtPeer() as there:
        drivers = []
        for peer in (here, there):
            config = LibvirtConfig(
                uri=peer.uri,
                virt_type="qemu",
                pool="shared",
                console_pool="logs",
                pool_path=folder,
            )
            drivers.append(guarded(LibvirtDriver.connect(config)))
        with drivers[0], drivers[1]:
            yield drivers[0], drivers[1], here, there


def _moves(folder: Path, image: FileImage) -> Iterator[Row]:
    with _shared_hosts(folder) as (source, destination, here, there):
        target = Destination(host=there.uri, address="127.0.0.1")
        flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER
        flags |= libvirt.VIR_MIGRATE_PERSIST_DEST | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
        # a folder of this machine is no network's: libvirt would refuse, the driver asks for it
        flags |= libvirt.VIR_MIGRATE_UNSAFE
        made: list[UUID] = []

        def ours() -> None:
            source.live_migrate(made.pop(), target)

        def bare() -> None:
            with closing(libvirt.open(here.uri)) as connection:
                domain = connection.lookupByUUIDString(str(made.pop()))
                domain.migrateToURI3(there.uri, {"migrate_uri": "tcp://127.0.0.1"}, flags)

        for _ in range(6):
            made.append(source.spawn(_spec(image)).uuid)
        yield pairs("live migration, shared storage", ours, bare, 3)
        for each in destination.list_instances():
            destination.destroy(each.uuid)


def _print(rows: Iterator[Row]) -> None:
    for row in rows:
        print(row, flush=True)


def main() -> None:
    """Print the rows."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "empty.raw")
        path.write_bytes(bytes(1 << 20))
        image = FileImage(path=path, format=ImageFormat.RAW)
        with LibvirtPeer() as peer:
            raw = LibvirtDriver.connect(LibvirtConfig(uri=peer.uri, virt_type="qemu"))
            with guarded(raw) as driver:
                pattern = driver.spawn(_spec(image)).uuid
                with closing(libvirt.open(peer.uri)) as connection:
                    xml = connection.lookupByUUIDString(str(pattern)).XMLDesc(
                        libvirt.VIR_DOMAIN_XML_INACTIVE
                    )
                bare = Bare(peer, xml)
                _print(_life(driver, bare, image))
                _print(_many_spawns(driver, bare, image))
                driver.destroy(pattern)
                _print(_lists(driver, bare, peer))
        shared = Path(folder, "shared")
        shared.mkdir()
        _print(_moves(shared, image))


if __name__ == "__main__":
    main()
