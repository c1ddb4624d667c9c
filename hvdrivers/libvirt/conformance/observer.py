"""Looks at a libvirt host past the driver: an own connection, raw XML, nothing of the driver's.

Only two things are shared with it, as they are facts of the host: how names carry a UUID, and how
aliases carry an id.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from io import BytesIO
from typing import Any
from uuid import UUID

import libvirt
import libvirt_qemu

from hvdrivers.conformance.engine.observer import Observer, PreconditionMissing
from hvdrivers.conformance.engine.residue import numbered
from hvdrivers.contract.capabilities import Capability
from hvdrivers.libvirt.conformance.raw_host import RawHost
from hvdrivers.libvirt.conformance.states import machines, state_of
from hvdrivers.libvirt.devices import source_of, vif_in_alias, volumes_of
from hvdrivers.libvirt.naming import IMAGE_PREFIX
from hvdrivers.libvirt.xml import Element, attribute, parse
from hvdrivers.models.guest import Share
from hvdrivers.models.hardware import CpuTopology
from hvdrivers.models.numa import NumaNode
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import Bandwidth, VifQos

_OWN = "ua-own-"
_GONE = {
    libvirt.VIR_ERR_NO_STORAGE_POOL,
    libvirt.VIR_ERR_OPERATION_INVALID,
}  # the latter on its way
_ROOT = re.compile(r"([0-9a-f-]{36}\.(?:root|rescue))(?:-[0-9a-f]+)?")
_SCRATCH = re.compile(r"([0-9a-f-]{36}\.backup)-[0-9]+-[0-9a-f]{8}(\.\w+)")


class LibvirtObserver(Observer):
    """Domains, volumes, NVRAM, saved memory, secrets, ports: by libvirt's own lists."""

    def __init__(self, host: RawHost, *, aside: frozenset[int] = frozenset()) -> None:
        self._host = host
        self._aside = aside
        """CPUs that are set aside; a machine that shares CPUs runs on the others of its cell."""

    def states(self) -> dict[UUID, InstanceState]:
        return {
            UUID(domain.UUIDString()): state_of(domain)
            for domain, ours in machines(self._host.connect)
            if ours
        }

    def residue(self) -> frozenset[str]:
        connect = self._host.connect
        found: set[str] = set()
        for domain in connect.listAllDomains(0):
            with suppress(libvirt.libvirtError):  # it has gone meanwhile
                found |= _of_domain(domain)
        for pool, volumes in self._volumes_by_pool(refresh=True):
            names = sorted(each for each in volumes if not each.startswith(IMAGE_PREFIX))
            found |= {f"volume {pool}/{name}" for name in _without_chance(names)}
        for secret in connect.listAllSecrets(0):
            found.add(f"secret {secret.usageType()} {secret.usageID()}")
        for network in connect.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE):
            with suppress(libvirt.libvirtError):
                for port in network.listAllPorts(0):
                    owner = parse(port.XMLDesc(0)).findtext("owner/uuid")
                    found.add(f"port of {owner} on {network.name()}")
        with suppress(libvirt.libvirtError):
            for binding in connect.listAllNWFilterBindings(0):
                found.add(f"interface filter of {binding.portDev()}")
        return frozenset(found)

    def devices(self, uuid: UUID) -> frozenset[str]:
        xml = self._xml(uuid)
        return frozenset(_volumes(xml)) | frozenset(_vifs(xml))

    def disk_limits(self, uuid: UUID) -> Mapping[str, Mapping[str, int]]:
        return {
            volume: {
                limit.tag: int(limit.text or 0)
                for limit in disk.iterfind("iotune/*")
                if int(limit.text or 0)
            }
            for volume, disk in _volumes(self._xml(uuid)).items()
        }

    def vif_limits(self, uuid: UUID) -> Mapping[str, VifQos | None]:
        return {
            vif: VifQos(inbound=_limits(nic, "inbound"), outbound=_limits(nic, "outbound"))
            if nic.find("bandwidth/*") is not None
            else None
            for vif, nic in _vifs(self._xml(uuid)).items()
        }

    def options(self, uuid: UUID) -> Mapping[str, Mapping[str, object]]:
        xml = self._xml(uuid)
        found = {name: _disk_options(disk) for name, disk in _volumes(xml).items()}
        found |= {
            (attribute(disk, "alias", "name") or "").removeprefix(_OWN): _disk_options(disk)
            for disk in xml.iterfind("devices/disk")
            if (attribute(disk, "alias", "name") or "").startswith(_OWN)
        }
        return found | {name: _nic_options(nic) for name, nic in _vifs(xml).items()}

    def hardware(self, uuid: UUID) -> Mapping[str, object]:
        xml = self._xml(uuid)
        devices = "devices/"
        shape = xml.find("cpu/topology")
        names = ("sockets", "cores", "threads")
        tpm = attribute(xml, devices + "tpm", "model")
        return {
            "machine_type": attribute(xml, "os/type", "machine"),
            "disk_bus": attribute(xml, devices + "disk/target", "bus"),
            "nic_model": attribute(xml, devices + "interface/model", "type"),
            "video": attribute(xml, devices + "video/model", "type"),
            "watchdog": attribute(xml, devices + "watchdog", "action"),
            "rng": xml.find(devices + "rng") is not None,
            "tpm_model": tpm.removeprefix("tpm-") if tpm else None,
            "cpu_topology": CpuTopology(**{name: int(shape.get(name, 1)) for name in names})
            if shape is not None
            else None,
            "numa": tuple(self._nodes(xml)),
        }

    def _nodes(self, xml: Element) -> Iterator[NumaNode]:
        """Virtual NUMA nodes, and where on the host they are."""
        of_cells = {
            cell.get("id"): {int(cpu.get("id", 0)) for cpu in cell.iterfind("cpus/cpu")}
            for cell in parse(self._host.connect.getCapabilities()).iterfind(
                "host/topology/cells/cell"
            )
        }
        pins = {
            int(pin.get("vcpu", 0)): _cpus(pin.get("cpuset", ""))
            for pin in xml.iterfind("cputune/vcpupin")
        }
        for node in xml.iterfind("cpu/numa/cell"):
            number = node.get("id")
            cell = attribute(xml, f"numatune/memnode[@cellid='{number}']", "nodeset")
            if cell is None:
                continue
            vcpus = _cpus(node.get("cpus", ""))
            own = all(pins[each] != of_cells[cell] - self._aside for each in vcpus)
            yield NumaNode(
                cell=int(cell),
                vcpus=frozenset(vcpus),
                memory_mib=int(node.get("memory", 0)) >> 10,
                cpus={each: min(pins[each]) for each in vcpus} if own else {},
            )

    def fittings(self, uuid: UUID) -> frozenset[Capability]:
        # firmware is named by what it shall do in a definition, by its file in a running machine
        xml = self._xml(uuid)
        by_file = attribute(xml, "os/loader", "type") == "pflash"
        secure = attribute(xml, "os/firmware/feature[@name='secure-boot']", "enabled")
        found = {
            Capability.UEFI: by_file or attribute(xml, "os", "firmware") == "efi",
            Capability.SECURE_BOOT: "yes" in {secure, attribute(xml, "os/loader", "secure")},
            Capability.VTPM: xml.find("devices/tpm/backend") is not None,
            Capability.SEV: attribute(xml, "launchSecurity", "type") == "sev",
        }
        return frozenset(each for each, there in found.items() if there)

    def shares(self, uuid: UUID) -> Mapping[str, Share]:
        found: dict[str, Share] = {}
        for each in self._xml(uuid).iterfind("devices/filesystem"):
            tag = attribute(each, "target", "dir") or ""
            path = attribute(each, "source", "dir") or ""
            read_only = each.find("readonly") is not None
            found[tag] = Share(tag=tag, path=path, read_only=read_only)
        return found

    def frozen(self, uuid: UUID) -> bool:
        domain = self._host.domain(uuid)
        if not domain.isActive():
            return False
        question = '{"execute": "guest-fsfreeze-status"}'
        try:
            answer = libvirt_qemu.qemuAgentCommand(domain, question, 10, 0)
        except libvirt.libvirtError as error:
            raise PreconditionMissing(f"the guest's agent does not answer: {error}") from error
        return str(json.loads(answer)["return"]) == "frozen"

    def own_disks(self, uuid: UUID) -> list[int]:
        xml = self._xml(uuid)
        attached = _volumes(xml).values()
        paths = [
            attribute(disk, "source", "file") or ""
            for disk in xml.iterfind("devices/disk[@device='disk']")
            if disk not in attached
        ]
        look_up = self._host.connect.storageVolLookupByPath
        return [int(look_up(path).info()[1]) for path in paths]

    def kept(self, uuid: UUID) -> frozenset[str]:
        found = set()
        for _, names in self._volumes_by_pool():
            found |= {name for name in names if name.startswith(str(uuid))}
            found |= {name for name in names if name.startswith(IMAGE_PREFIX)}
        return frozenset(found)

    def _volumes_by_pool(self, *, refresh: bool = False) -> Iterator[tuple[str, list[str]]]:
        """The names of each active pool's volumes. A pool that goes meanwhile has none: the driver
        looks at a folder through a pool of a moment.

        Args:
            refresh: have each pool look at its folder anew.
        """
        active = libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE
        for pool in self._host.connect.listAllStoragePools(active):
            if refresh:
                with suppress(libvirt.libvirtError):  # busy: what it knows must do
                    pool.refresh(0)
            try:
                names = [volume.name() for volume in pool.listAllVolumes(0)]
            except libvirt.libvirtError as error:
                if error.get_error_code() not in _GONE:
                    raise
                continue
            yield pool.name(), names

    def seed(self, uuid: UUID) -> Mapping[str, bytes]:
        import pycdlib

        files = {}
        for disk in self._xml(uuid).iterfind("devices/disk[@device='cdrom']"):
            iso: Any = pycdlib.PyCdlib()
            iso.open_fp(BytesIO(self._host.content(source_of(disk))))
            for folder, _, names in iso.walk(rr_path="/"):
                for name in names:
                    path, data = f"{folder.rstrip('/')}/{name}", BytesIO()
                    iso.get_file_from_iso_fp(data, rr_path=path)
                    files[path.lstrip("/")] = data.getvalue()
            iso.close()
        return files

    def seed_disc(self, uuid: UUID) -> bytes:
        disk = self._xml(uuid).find(f"devices/disk/alias[@name='{_OWN}seed']/..")
        if disk is None:
            raise PreconditionMissing("the machine has no seed disc")
        return self._host.content(source_of(disk))

    def read_only(self, uuid: UUID) -> frozenset[str]:
        volumes = _volumes(self._xml(uuid))
        return frozenset(
            name for name, disk in volumes.items() if disk.find("readonly") is not None
        )

    def foreign(self) -> Mapping[UUID, tuple[str, InstanceState]]:
        return {
            UUID(domain.UUIDString()): (domain.name(), state_of(domain))
            for domain, ours in machines(self._host.connect)
            if not ours
        }

    def power_off(self, uuid: UUID) -> None:
        self._host.domain(uuid).destroy()

    def _xml(self, uuid: UUID) -> Element:
        return parse(self._host.domain(uuid).XMLDesc(0))


def _without_chance(names: Iterable[str]) -> Iterator[str]:
    """Names of volumes; of root disks, and of what an open backup keeps, how many an instance has,
    as chance has chosen a part of their names."""
    by_chance = []
    for name in names:
        found = _ROOT.fullmatch(name) or _SCRATCH.fullmatch(name)
        if found is None:
            yield name
        else:
            by_chance.append("".join(found.groups()))
    yield from numbered(by_chance)


def _of_domain(domain: Any) -> set[str]:
    uuid = domain.UUIDString()
    xml = parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    found = {f"machine {uuid} {domain.name()}, {state_of(domain)}"}
    found |= {f"volume {each} in {uuid}" for each in _volumes(xml)}
    found |= {f"nic {each} in {uuid}" for each in _vifs(xml)}
    found |= {f"snapshot {each} of {uuid}" for each in _snapshots(domain)}
    if domain.hasManagedSaveImage(0):
        found.add(f"saved memory of {uuid}")
    if domain.isActive():
        running = parse(domain.XMLDesc(0))
        taps = running.findall("devices/interface/target[@dev]")
        found |= {f"tap number {number} of {uuid}" for number in range(len(taps))}
    return found


def _snapshots(domain: Any) -> Iterator[str]:
    """Each by its label, and that of its parent: chance has chosen its name."""
    trees = [parse(each.getXMLDesc(0)) for each in domain.listAllSnapshots(0)]
    labels: dict[str | None, str | None] = {None: "nothing"}
    for tree in trees:
        name = tree.findtext("name")
        try:
            labels[name] = str(json.loads(tree.findtext("description") or "")["name"])
        except (ValueError, TypeError, KeyError):
            labels[name] = str(name)
    for tree in trees:
        above = tree.findtext("parent/name")
        yield f"{labels[tree.findtext('name')]} below {labels.get(above, above)}"


def _volumes(xml: Element) -> dict[str, Element]:
    return volumes_of(xml)


def _vifs(xml: Element) -> dict[str, Element]:
    named = {
        vif_in_alias(attribute(nic, "alias", "name") or ""): nic
        for nic in xml.iterfind("devices/interface")
    }
    return {name[1]: nic for name, nic in named.items() if name is not None}


def _disk_options(disk: Element) -> dict[str, object]:
    return {
        "bus": attribute(disk, "target", "bus"),
        "cache": attribute(disk, "driver", "cache"),
        "device_type": disk.get("device"),
        "discard": attribute(disk, "driver", "discard") == "unmap",
    }


def _nic_options(nic: Element) -> dict[str, object]:
    numbers = {
        "mtu": attribute(nic, "mtu", "size"),
        "queues": attribute(nic, "driver", "queues"),
        "vlan": attribute(nic, "vlan/tag", "id"),
    }
    return {
        "model": attribute(nic, "model", "type"),
        "active": attribute(nic, "link", "state") != "down",
        # libvirt shows a function in the place of the network that it is of, while a machine runs
        "sriov": nic.get("type") == "hostdev"
        or (attribute(nic, "alias", "name") or "").startswith("ua-vif-function-"),
        **{name: int(value) if value else None for name, value in numbers.items()},
    }


def _cpus(numbers: str) -> set[int]:
    """``0-2,7``, as libvirt writes it."""
    parts = [part.partition("-") for part in numbers.split(",")]
    return {each for first, _, last in parts for each in range(int(first), int(last or first) + 1)}


def _limits(nic: Element, direction: str) -> Bandwidth | None:
    found = nic.find(f"bandwidth/{direction}")
    if found is None:
        return None
    # libvirt counts kilobytes, the model kilobits
    numbers = {name: int(value) * 8 for name, value in found.items()}
    return Bandwidth(**numbers)
