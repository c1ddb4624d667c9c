"""Looks at a libvirt host past the driver: an own connection, raw XML, nothing of the driver's.

Only two things are shared with it, as they are facts of the host: how names carry a UUID, and how
aliases carry an id.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from io import BytesIO
from typing import Any
from uuid import UUID

import libvirt

from hvdrivers.conformance.target import Observer, PreconditionMissing
from hvdrivers.contract.capabilities import Capability
from hvdrivers.libvirt.devices import source_of, vif_in_alias
from hvdrivers.libvirt.naming import IMAGE_PREFIX, from_alias
from hvdrivers.libvirt.xml import Element, attribute, parse
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import Bandwidth, VifQos

_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: InstanceState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: InstanceState.RUNNING,
    libvirt.VIR_DOMAIN_SHUTDOWN: InstanceState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: InstanceState.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: InstanceState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTOFF: InstanceState.STOPPED,
    libvirt.VIR_DOMAIN_CRASHED: InstanceState.CRASHED,
}
_CRASHED = {
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_CRASHED),
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED),
}


class RawHost:
    """A connection of its own, made again when the suite has cut it."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._lock = threading.Lock()
        self._connect: Any = None

    @property
    def connect(self) -> Any:
        """The raw virConnect; it has just answered."""
        with self._lock:
            if self._connect is not None:
                with suppress(libvirt.libvirtError):
                    self._connect.getLibVersion()
                    return self._connect
                self.drop()
            try:
                self._connect = libvirt.open(self._uri)
            except libvirt.libvirtError as error:
                raise PreconditionMissing(f"no second connection to the host: {error}") from error
            return self._connect

    def domain(self, uuid: UUID) -> Any:
        """A raw virDomain."""
        return self.connect.lookupByUUIDString(str(uuid))

    def content(self, path: str) -> bytes:
        """The file of a volume, as it is."""
        connect = self.connect
        stream = connect.newStream(0)
        connect.storageVolLookupByPath(path).download(stream, 0, 0, 0)
        found = bytearray()
        stream.recvAll(lambda _stream, data, into: into.extend(data), found)
        stream.finish()
        return bytes(found)

    def drop(self) -> None:
        """Close it."""
        if self._connect is not None:
            with suppress(libvirt.libvirtError):
                self._connect.close()
            self._connect = None


class LibvirtObserver(Observer):
    """Domains, volumes, NVRAM, saved memory, secrets, ports: by libvirt's own lists."""

    def __init__(self, host: RawHost) -> None:
        self._host = host

    def states(self) -> dict[UUID, InstanceState]:
        return {
            UUID(domain.UUIDString()): _state(domain)
            for domain in self._host.connect.listAllDomains(0)
            if domain.name().endswith(f".{domain.UUIDString()}")
        }

    def residue(self) -> frozenset[str]:
        connect = self._host.connect
        found: set[str] = set()
        for domain in connect.listAllDomains(0):
            with suppress(libvirt.libvirtError):  # it has gone meanwhile
                found |= _of_domain(domain)
        for pool in connect.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE):
            with suppress(libvirt.libvirtError):  # busy: what it knows must do
                pool.refresh(0)
            found |= {
                f"volume {pool.name()}/{volume.name()}"
                for volume in pool.listAllVolumes(0)
                if not volume.name().startswith(IMAGE_PREFIX)
            }
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

    def read_only(self, uuid: UUID) -> frozenset[str]:
        volumes = _volumes(self._xml(uuid))
        return frozenset(
            name for name, disk in volumes.items() if disk.find("readonly") is not None
        )

    def foreign(self) -> Mapping[UUID, tuple[str, InstanceState]]:
        return {
            UUID(domain.UUIDString()): (domain.name(), _state(domain))
            for domain in self._host.connect.listAllDomains(0)
            if not domain.name().endswith(f".{domain.UUIDString()}")
        }

    def power_off(self, uuid: UUID) -> None:
        self._host.domain(uuid).destroy()

    def _xml(self, uuid: UUID) -> Element:
        return parse(self._host.domain(uuid).XMLDesc(0))


def _state(domain: Any) -> InstanceState:
    state, reason = domain.state(0)
    if (state, reason) in _CRASHED:
        return InstanceState.CRASHED
    if state == libvirt.VIR_DOMAIN_SHUTOFF and domain.hasManagedSaveImage(0):
        return InstanceState.SUSPENDED
    return _STATES.get(state, InstanceState.STOPPED)


def _of_domain(domain: Any) -> set[str]:
    uuid = domain.UUIDString()
    xml = parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    found = {f"machine {uuid} {domain.name()}, {_state(domain)}"}
    found |= {f"volume {each} in {uuid}" for each in _volumes(xml)}
    found |= {f"nic {each} in {uuid}" for each in _vifs(xml)}
    found |= {f"snapshot {each} of {uuid}" for each in domain.snapshotListNames(0)}
    if domain.hasManagedSaveImage(0):
        found.add(f"saved memory of {uuid}")
    if domain.isActive():
        running = parse(domain.XMLDesc(0))
        taps = running.findall("devices/interface/target[@dev]")
        found |= {f"tap number {number} of {uuid}" for number in range(len(taps))}
    return found


def _volumes(xml: Element) -> dict[str, Element]:
    named = {
        from_alias("volume", attribute(disk, "alias", "name") or ""): disk
        for disk in xml.iterfind("devices/disk")
    }
    return {name: disk for name, disk in named.items() if name is not None}


def _vifs(xml: Element) -> dict[str, Element]:
    named = {
        vif_in_alias(attribute(nic, "alias", "name") or ""): nic
        for nic in xml.iterfind("devices/interface")
    }
    return {name[1]: nic for name, nic in named.items() if name is not None}


def _limits(nic: Element, direction: str) -> Bandwidth | None:
    found = nic.find(f"bandwidth/{direction}")
    if found is None:
        return None
    # libvirt counts kilobytes, the model kilobits
    numbers = {name: int(value) * 8 for name, value in found.items()}
    return Bandwidth(**numbers)
