"""Where the driver works: one datacenter, one cluster or host, its pool, folder and datastores.

On vCenter ``compute`` is a cluster or a host that is in none; on ESXi it is the host itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim

from hvdrivers.contract import errors
from hvdrivers.vmware.config import VmwareConfig
from hvdrivers.vmware.names import escaped
from hvdrivers.vmware.reader import Reader, Row, step
from hvdrivers.vmware.session import Session

_INVENTORY = [
    step(vim.Folder, "childEntity", "Folder.childEntity", "Datacenter.hostFolder"),
    step(vim.Datacenter, "hostFolder", "Folder.childEntity"),
]
_POOLS = [step(vim.ResourcePool, "resourcePool", "ResourcePool.resourcePool")]
_COMPUTE = [
    step(vim.ComputeResource, "datastore"),
    step(vim.ComputeResource, "network"),
    step(vim.ComputeResource, "host"),
]
_Guests = vim.vm.guest.GuestOperationsManager
HOST = (
    "name",
    "runtime.connectionState",
    "runtime.inMaintenanceMode",
    "summary.hardware.memorySize",
    "summary.hardware.numCpuThreads",
    "summary.quickStats.overallMemoryUsage",
)
DATASTORE = ("name", "summary.accessible", "summary.capacity", "summary.freeSpace", "browser")
NETWORK = ("name",)
PORT_GROUP = ("name", "key", "config.distributedVirtualSwitch", "config.uplink")
OPAQUE = ("name", "summary")
NO_HOST = "exit_maintenance(), or connect a host again in vSphere"
"""The hint where no host takes machines."""


@dataclass(frozen=True)
class Place:
    """What does not change while the driver is connected."""

    is_vcenter: bool
    datacenter: Any
    datacenter_path: str
    """As the datastore web space names it: folders and the datacenter, joined by slashes."""
    vm_folder: Any
    compute: Any
    compute_name: str
    is_cluster: bool
    only_host: Any
    """The one host of ``compute``; None: it has several."""
    root_pool: Any
    pool: Any
    datastore: str
    """Name of the datastore for disks and images."""
    drs: bool
    """Whether the cluster chooses the hosts of its machines when the driver connected."""
    guests: Row | None
    """The managers of guests' files and processes; None: the server has none."""


@dataclass(frozen=True)
class Datastores:
    """The datastores of the cluster or host, as they are now."""

    datastores: Mapping[str, Row]

    def datastore(self, name: str) -> Row:
        """A datastore that can be used now. No call.

        Raises:
            VolumeNotFound: there is none of this name, or not any more.
            InsufficientResources: the server cannot reach it now.
        """
        found = self.datastores.get(name)
        if found is None:
            raise errors.VolumeNotFound(
                f"there is no datastore {name!r} on this cluster or host",
                hint=f"there are: {', '.join(sorted(self.datastores)) or 'none'}",
            )
        if not found.get("summary.accessible"):
            raise errors.InsufficientResources(
                f"the datastore {name!r} is not accessible", hint="what it has is there when it is"
            )
        return found


@dataclass(frozen=True)
class Surroundings(Datastores):
    """Hosts, datastores and networks, as they are now."""

    hosts: tuple[Row, ...]
    networks: tuple[Row, ...]
    switches: Mapping[str, str]
    """UUID of a distributed switch by its id."""
    drs: bool
    """Whether the cluster chooses the host of a new machine itself."""
    keeps_rules: bool = False
    """Whether it does so by itself, and so by its rules, and not only recommends a host."""

    @property
    def usable_hosts(self) -> tuple[Row, ...]:
        """Hosts that take a machine now."""
        return tuple(
            host for host in self.connected_hosts if not host.get("runtime.inMaintenanceMode")
        )

    @property
    def connected_hosts(self) -> tuple[Row, ...]:
        """Hosts that the server reaches, also those in maintenance."""
        return tuple(
            host for host in self.hosts if host.get("runtime.connectionState") == "connected"
        )


class Places:
    """Finds the place once and reads its surroundings each time."""

    def __init__(
        self,
        session: Session,
        reader: Reader,
        config: VmwareConfig | None = None,
        *,
        any_datastore: bool = False,
    ) -> None:
        self._session = session
        self._reader = reader
        self._config: VmwareConfig = config or session.config
        self._any_datastore = any_datastore
        """True: no datastore is chosen, so that several are no error."""
        self._found: Place | None = None
        self._hosts: frozenset[Any] = frozenset()

    def holds(self, host: Any) -> bool:
        """Whether a host belongs to the place. No call for one that was seen before, else one."""
        if not self.get().is_vcenter or host is None or host in self._hosts:
            return True
        compute = self.get().compute
        self._hosts = frozenset(self._reader.one(compute, "host").get("host") or ())
        return host in self._hosts

    def get(self) -> Place:
        """The place. One call, up to three with a folder and a resource pool; then none.

        Raises:
            InvalidRequest: the configuration names what is not there, or does not say which of
                several.
        """
        if self._found is None:
            self._found = self._find()
        return self._found

    def _find(self) -> Place:
        content = self._session.content
        rows = self._reader.read(
            [
                (vim.Folder, ("name", "parent")),
                (vim.Datacenter, ("name", "parent", "vmFolder")),
                (vim.ComputeResource, ("name", "parent", "resourcePool", "host")),
                (vim.Datastore, ("name", "summary.freeSpace")),
                (_Guests, ("fileManager", "processManager")),
            ],
            [
                (content.rootFolder, [*_INVENTORY, *_COMPUTE_DATASTORES]),
                *((each, ()) for each in (content.guestOperationsManager,) if each is not None),
            ],
        )
        by_object = {row.obj: row for row in rows}
        config = self._config
        datacenter = _chosen(
            "datacenter",
            config.datacenter,
            {row["name"]: row for row in rows if isinstance(row.obj, vim.Datacenter)},
        )
        computes = {
            row["name"]: row
            for row in rows
            if isinstance(row.obj, vim.ComputeResource)
            and datacenter.obj in _ancestors(row, by_object)
        }
        compute = _chosen("compute", config.compute, computes)
        self._hosts = frozenset(compute.get("host") or ())
        stores = [row for row in rows if isinstance(row.obj, vim.Datastore)]
        chosen = self._of_compute(compute.obj)
        return Place(
            is_vcenter=content.about.apiType == "VirtualCenter",
            datacenter=datacenter.obj,
            datacenter_path="/".join(
                [*_folders(datacenter, by_object, content.rootFolder), datacenter["name"]]
            ),
            vm_folder=self._vm_folder(datacenter),
            compute=compute.obj,
            compute_name=compute["name"],
            is_cluster=isinstance(compute.obj, vim.ClusterComputeResource),
            only_host=next(iter(self._hosts)) if len(self._hosts) == 1 else None,
            root_pool=compute["resourcePool"],
            pool=self._pool(compute["resourcePool"]),
            datastore=self._datastore(datacenter.obj, chosen, stores),
            drs=chooses_hosts(chosen.get("configurationEx")),
            guests=next((row for row in rows if isinstance(row.obj, _Guests)), None),
        )

    def _of_compute(self, compute: Any) -> Row:
        """Its datastores, and the configuration of a cluster. One call; none where no datastore is
        chosen."""
        if self._any_datastore:
            return Row(compute, {})
        cluster = isinstance(compute, vim.ClusterComputeResource)
        return self._reader.one(compute, "datastore", *(("configurationEx",) if cluster else ()))

    def _datastore(self, datacenter: Any, compute: Row, stores: list[Row]) -> str:
        if self._any_datastore:
            return ""
        mine = compute.get("datastore") or []
        # one that is not accessible counts: else the files would be on another one for that time
        named = {row["name"]: row for row in stores if row.obj in mine}
        wanted = self._config.datastore
        if wanted is not None and not {wanted, escaped(wanted)} & named.keys():
            self._refuse_cluster(datacenter, wanted, named)
        return str(_chosen("datastore", wanted, named)["name"])

    def _refuse_cluster(self, datacenter: Any, wanted: str, named: Mapping[str, Row]) -> None:
        """Say which datastores a datastore cluster has. All files of the driver are on one."""
        rows = self._reader.read(
            [(vim.StoragePod, ("name", "childEntity"))],
            [(datacenter, _DATASTORE_FOLDERS)],
        )
        for pod in rows:
            if pod.get("name") not in {wanted, escaped(wanted)}:
                continue
            inside = pod.get("childEntity") or ()
            stores = [row for row in named.values() if row.obj in inside]
            stores.sort(key=lambda row: -int(row.get("summary.freeSpace") or 0))
            listed = ", ".join(
                f"{row['name']} ({int(row.get('summary.freeSpace') or 0) >> 30} GiB free)"
                for row in stores
            )
            raise errors.InvalidRequest(
                f"{wanted!r} is a datastore cluster, and the driver needs one datastore",
                hint=f"it has: {listed or 'none that this cluster or host reaches'}",
            )

    def _vm_folder(self, datacenter: Row) -> Any:
        if self._config.folder is None:
            return datacenter["vmFolder"]
        wanted = [part for part in self._config.folder.split("/") if part]
        found = datacenter["vmFolder"]
        for part in wanted:
            children = self._reader.one(found, "childEntity").get("childEntity") or []
            folders = [each for each in children if isinstance(each, vim.Folder)]
            named = {row["name"]: row for row in self._reader.many(folders, "name")}
            found = _chosen("folder", part, named).obj
        return found

    def _pool(self, root: Any) -> Any:
        if self._config.resource_pool is None:
            return root
        rows = self._reader.below(root, _POOLS, vim.ResourcePool, "name")
        return _chosen(
            "resource_pool", self._config.resource_pool, {r["name"]: r for r in rows}
        ).obj

    def datastores(self) -> Datastores:
        """The datastores now. One call, which tells less than that of ``surroundings()``."""
        compute = self.get().compute
        steps = [step(vim.ComputeResource, "datastore")]
        # a session that has ended shows only in the objects of an answer: the compute is always one
        wanted = [(vim.Datastore, DATASTORE), (vim.ComputeResource, ("name",))]
        rows = self._reader.read(wanted, [(compute, steps)])
        return Datastores({r["name"]: r for r in rows if isinstance(r.obj, vim.Datastore)})

    def surroundings(self) -> Surroundings:
        """Hosts, datastores and networks now. One call."""
        place = self.get()
        compute = [(vim.ClusterComputeResource, ("configurationEx",))] if place.is_cluster else []
        rows = self._reader.read(
            [
                (vim.HostSystem, HOST),
                (vim.Datastore, DATASTORE),
                (vim.Network, NETWORK),
                (vim.dvs.DistributedVirtualPortgroup, PORT_GROUP),
                (vim.OpaqueNetwork, OPAQUE),
                (vim.DistributedVirtualSwitch, ("uuid",)),
                *compute,
            ],
            [
                (place.compute, _SURROUNDINGS),
                *([(place.compute, [])] if place.is_cluster else []),
                # all networks of an ESXi host, also one that was made a moment ago
                *([] if place.is_vcenter else [(place.datacenter, _ALL_NETWORKS)]),
            ],
        )
        networks = {r.obj: r for r in rows if isinstance(r.obj, vim.Network)}
        config = next((r.get("configurationEx") for r in rows if r.obj == place.compute), None)
        return Surroundings(
            hosts=tuple(r for r in rows if isinstance(r.obj, vim.HostSystem)),
            datastores={r["name"]: r for r in rows if isinstance(r.obj, vim.Datastore)},
            networks=tuple(networks.values()),
            switches={
                r.moid: r.get("uuid", "")
                for r in rows
                if isinstance(r.obj, vim.DistributedVirtualSwitch)
            },
            drs=bool(config is not None and config.drsConfig and config.drsConfig.enabled),
            keeps_rules=chooses_hosts(config),
        )


_COMPUTE_DATASTORES = [
    step(vim.Folder, "childEntity", "ComputeResource.datastore", name="to-compute"),
    step(vim.ComputeResource, "datastore"),
]
_DATASTORE_FOLDERS = [
    step(vim.Datacenter, "datastoreFolder", "Folder.childEntity"),
    step(vim.Folder, "childEntity", "Folder.childEntity"),
]
_ALL_NETWORKS = [step(vim.Datacenter, "network")]
_SURROUNDINGS = [
    step(vim.ComputeResource, "datastore"),
    step(vim.ComputeResource, "network", "switch-of"),
    step(vim.ComputeResource, "host"),
    step(vim.dvs.DistributedVirtualPortgroup, "config.distributedVirtualSwitch", name="switch-of"),
]


def chooses_hosts(config: Any) -> bool:
    """Whether the DRS of a cluster with this configuration places machines by itself, and so by its
    rules. In its manual mode it recommends a host, and waits for somebody to agree."""
    drs = None if config is None else config.drsConfig
    return bool(drs and drs.enabled and drs.defaultVmBehavior != "manual")


def _chosen(what: str, name: str | None, found: Mapping[str, Row]) -> Row:
    if name is not None:
        for stored in (name, escaped(name)):
            if stored in found:
                return found[stored]
        raise errors.InvalidRequest(
            f"there is no {what} {name!r}", hint=f"there are: {', '.join(sorted(found)) or 'none'}"
        )
    if len(found) == 1:
        return next(iter(found.values()))
    raise errors.InvalidRequest(
        f"there are {len(found)} to choose from: say which with {what}=",
        hint=f"there are: {', '.join(sorted(found)) or 'none'}",
    )


def _ancestors(row: Row, by_object: Mapping[Any, Row]) -> list[Any]:
    found = []
    parent = row.get("parent")
    while parent is not None:
        found.append(parent)
        above = by_object.get(parent)
        parent = above.get("parent") if above is not None else None
    return found


def _folders(datacenter: Row, by_object: Mapping[Any, Row], root: Any) -> list[str]:
    names = []
    for each in _ancestors(datacenter, by_object):
        if each != root and each in by_object:
            names.append(by_object[each]["name"])
    return names[::-1]
