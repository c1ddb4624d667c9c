"""Looks at a vSphere server past the driver: pyVmomi's own connection, a raw property collector.

Facts of the server are shared with the driver and no code: the keys of the extraConfig, and the
folder on the datastores.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from typing import Any
from uuid import UUID

from pyVmomi import vim, vmodl

from hvdrivers.conformance.engine.observer import Observer
from hvdrivers.conformance.engine.residue import numbered
from hvdrivers.contract.capabilities import Capability
from hvdrivers.models.group import ServerGroupPolicy
from hvdrivers.models.state import InstanceState
from hvdrivers.models.vif import Bandwidth, NicModel, VifQos
from hvdrivers.models.volume import DiskBus
from hvdrivers.vmware.conformance import stored
from hvdrivers.vmware.conformance.raw_server import RawServer

_NUMBER = re.compile(r"-([0-9]{6}|[0-9a-f]{12})(?=\.vmdk$)|(?<=/claim-)[0-9a-f]{16}$")
"""What tells the files of one disk apart: snapshots and rebuilds make new ones. And what tells two
spawns apart."""
_HOME = re.compile(r"(.*\.)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.DOTALL)
_KEY = "config.extraConfig["
_KEYS = frozenset(f'{_KEY}"hvdrivers.{each}"]' for each in ("image", "mark", "devices"))
_POWER = {
    "poweredOn": InstanceState.RUNNING,
    "poweredOff": InstanceState.STOPPED,
    "suspended": InstanceState.SUSPENDED,
}
_Device = vim.vm.device
_MODELS = {
    _Device.VirtualVmxnet3: NicModel.VMXNET3,
    _Device.VirtualE1000: NicModel.E1000,
    _Device.VirtualE1000e: NicModel.E1000E,
}


class VmwareObserver(Observer):
    """Machines, their devices and snapshots, and the driver's folder on each datastore."""

    def __init__(self, server: RawServer, directory: str, compute: str | None = None) -> None:
        self._server = server
        self._directory = directory
        self._compute = compute

    def states(self) -> dict[UUID, InstanceState]:
        return {
            uuid: state
            for uuid, _, state, ours, values in self._machines(self._look())
            if ours and not values["away"]
        }

    def foreign(self) -> Mapping[UUID, tuple[str, InstanceState]]:
        return {
            uuid: (name, state)
            for uuid, name, state, ours, values in self._machines(self._look())
            if not ours and not values["away"]
        }

    def _look(self) -> list[tuple[Any, dict[str, Any]]]:
        """The machines, the hosts and the datastores, in one request."""
        known = ("name", "config.instanceUuid", "runtime.powerState", "runtime.host")
        return self._server.read_all(
            {
                vim.VirtualMachine: (*known, *_KEYS),
                vim.ComputeResource: ("name", "host"),
                vim.ClusterComputeResource: ("name", "host", "configurationEx"),
                vim.Datastore: stored.WANTED,
            }
        )

    def _machines(
        self, rows: Sequence[tuple[Any, dict[str, Any]]]
    ) -> Iterator[tuple[UUID, str, InstanceState, bool, dict[str, Any]]]:
        # the hosts that the driver works on; a vCenter may have others
        hosts = [
            host
            for _, values in rows
            if "host" in values and self._compute in (None, values["name"])
            for host in values["host"]
        ]
        for obj, values in rows:
            if not values.get("config.instanceUuid"):
                continue
            uuid = UUID(values["config.instanceUuid"])
            extra = {path[len(_KEY) + 1 : -2]: values[path].value for path in _KEYS & values.keys()}
            if json.loads(extra.get("hvdrivers.image") or "{}").get("uuid") == str(uuid):
                continue  # a template: a part of the cache
            mark = json.loads(extra.get("hvdrivers.mark") or "{}")
            ours = mark.get("uuid") == str(uuid)
            state = _POWER[values["runtime.powerState"]]
            if ours and mark.get("rescued") and state is InstanceState.RUNNING:
                state = InstanceState.RESCUED
            if ours and mark.get("building") and state is InstanceState.STOPPED:
                state = InstanceState.BUILDING
            away = values.get("runtime.host") not in hosts
            row = {**values, "obj": obj, "extra": extra, "away": away}
            yield uuid, values["name"], state, ours, row

    def residue(self) -> frozenset[str]:
        found = set()
        machines: set[str] = set()
        elsewhere: set[str] = set()
        seen = self._look()
        for uuid, name, state, ours, values in self._machines(seen):
            if not ours:
                continue
            if values["away"]:
                elsewhere.add(str(uuid))
                continue
            machines.add(str(uuid))
            found.add(f"machine {uuid} {name}, {state}")
            devices = devices_in(values["extra"])
            found |= {f"volume {each['id']} in {uuid}" for each in devices["volumes"].values()}
            found |= {f"nic {each['id']} in {uuid}" for each in devices["vifs"].values()}
            try:
                more = self._server.of(values["obj"], "config.hardware.device", "snapshot")
            except vmodl.fault.ManagedObjectNotFound:
                continue  # it has gone since
            hardware = more.get("config.hardware.device") or ()
            cards = [each for each in hardware if isinstance(each, _Device.VirtualEthernetCard)]
            found |= {f"port {each.macAddress} of {uuid}" for each in cards}
            snapshot = more.get("snapshot")
            trees = list(snapshot.rootSnapshotList) if snapshot is not None else []
            while trees:
                tree = trees.pop()
                found.add(f"snapshot {tree.name} of {uuid}")
                trees += tree.childSnapshotList or ()
        found |= {
            f"rule {rule.name} of {len(rule.vm or ())} machines" for rule in self._rules(seen)
        }
        # a machine that has run has a console log, and an adopted one may have an empty folder;
        # each is found only if it outlives the machine
        logs = {f"/{uuid}/console.log" for uuid in machines}
        logs |= {f"/instances/{uuid}" for uuid in machines}
        files = (
            _NUMBER.sub("", each)
            for each in self._files(seen)
            if not any(each.endswith(log) for log in logs)
            and not any(uuid in each for uuid in elsewhere)
        )
        return frozenset(found | set(numbered(files)))

    def kept(self, uuid: UUID) -> frozenset[str]:
        extra, _ = self._hardware(uuid)
        image = json.loads(extra["hvdrivers.record"]).get("image")
        found = set()
        rows = self._server.read(vim.Datastore, *stored.WANTED)
        for path in self._files(rows, images=True):
            inside = path.partition("] ")[2]
            home = f"/instances/{uuid}/" in path or f"{uuid}/" in path
            if home or (image and f"/images/{image}/" in path):
                name = inside.rpartition("/")[2]
                stem = name.removesuffix(".vmdk")
                below = inside.partition("/")[2].removesuffix(".vmdk")
                found |= {path.removeprefix("file "), inside, name, stem, f"../{below}"}
        return frozenset(found)

    def _files(
        self, rows: Sequence[tuple[Any, dict[str, Any]]], *, images: bool = False
    ) -> set[str]:
        found = set()
        for datastore, inside, name in stored.everything(self._server, rows):
            parts = inside.split("/")
            if parts[0] != self._directory and not _HOME.fullmatch(parts[0]):
                continue  # of others. The server names the folder of a clone after the machine,
                # and Storage vMotion one after the machine's own
            if parts[1:2] == ["images"] and not images:
                continue
            # a disk is one thing, with its extent; logs come and go with the server; the
            # folders of a kind stay
            deep = len(parts) > 1 or parts[0] != self._directory
            if deep and name != "vmware.log" and not name.endswith("-flat.vmdk"):
                found.add(f"file [{datastore}] {inside}/{name}")
        return found

    def devices(self, uuid: UUID) -> frozenset[str]:
        extra, hardware = self._hardware(uuid)
        devices = devices_in(extra)
        disks = addresses(hardware)
        cards = {
            each.macAddress.lower()
            for each in hardware
            if isinstance(each, _Device.VirtualEthernetCard)
        }
        volumes = {v["id"] for address, v in devices["volumes"].items() if address in disks}
        return frozenset(volumes | {v["id"] for mac, v in devices["vifs"].items() if mac in cards})

    def disk_limits(self, uuid: UUID) -> Mapping[str, Mapping[str, int]]:
        extra, hardware = self._hardware(uuid)
        disks = addresses(hardware)
        found = {}
        for address, volume in devices_in(extra)["volumes"].items():
            allocation = disks[address].storageIOAllocation
            limit = allocation.limit if allocation is not None else None
            found[volume["id"]] = {"total_iops_sec": limit} if limit and limit > 0 else {}
        return found

    def vif_limits(self, uuid: UUID) -> Mapping[str, VifQos | None]:
        extra, hardware = self._hardware(uuid)
        vifs = devices_in(extra)["vifs"]
        found: dict[str, VifQos | None] = {}
        for card in hardware:
            if not isinstance(card, _Device.VirtualEthernetCard):
                continue
            vif = vifs.get(card.macAddress.lower())
            limit = card.resourceAllocation.limit if card.resourceAllocation else None
            out = Bandwidth(average=limit * 1000) if limit and limit > 0 else None
            if vif is not None:
                found[vif["id"]] = VifQos(outbound=out) if out is not None else None
        return found

    def fittings(self, uuid: UUID) -> frozenset[Capability]:
        config = self._server.of(self._server.machine(uuid), "config")["config"]
        options = config.bootOptions
        found = {
            Capability.UEFI: config.firmware == "efi",
            Capability.SECURE_BOOT: bool(options and options.efiSecureBootEnabled),
            Capability.SEV: bool(config.sevEnabled),
            Capability.VTPM: any(
                isinstance(each, _Device.VirtualTPM) for each in config.hardware.device
            ),
        }
        return frozenset(each for each, there in found.items() if there)

    def kept_with(self, uuid: UUID) -> tuple[ServerGroupPolicy, frozenset[UUID]] | None:
        seen = self._look()
        uuids = {
            obj._moId: UUID(values["config.instanceUuid"])
            for obj, values in seen
            if values.get("config.instanceUuid")
        }
        for rule in self._rules(seen):
            machines = [machine._moId for machine in rule.vm or ()]
            if uuid in (uuids.get(each) for each in machines):
                apart = isinstance(rule, vim.cluster.AntiAffinityRuleSpec)
                kind = ServerGroupPolicy.ANTI_AFFINITY if apart else ServerGroupPolicy.AFFINITY
                policy = kind if rule.mandatory else ServerGroupPolicy(f"soft-{kind}")
                # one that has gone is nobody's UUID
                return policy, frozenset(uuids.get(each, UUID(int=0)) for each in machines)
        return None

    def _rules(self, rows: Sequence[tuple[Any, dict[str, Any]]]) -> list[Any]:
        """The rules of the cluster that the driver works on, but those of others."""
        return [
            rule
            for _, values in rows
            if "configurationEx" in values and self._compute in (None, values["name"])
            for rule in values["configurationEx"].rule or ()
            if rule.name.startswith("hvdrivers.")
        ]

    def options(self, uuid: UUID) -> Mapping[str, Mapping[str, object]]:
        extra, hardware = self._hardware(uuid)
        devices = devices_in(extra)
        names = {"scsi": DiskBus.SCSI, "sata": DiskBus.SATA, "nvme": DiskBus.NVME}
        found: dict[str, Mapping[str, object]] = {
            volume["id"]: {"bus": names.get(address[:4], DiskBus.IDE)}
            for address, volume in devices["volumes"].items()
            if address in addresses(hardware)
        }
        for address, role in devices["own"].items():
            if address in addresses(hardware):
                found[role] = {"bus": names.get(address[:4], DiskBus.IDE)}
        for card in hardware:
            if isinstance(card, _Device.VirtualEthernetCard):
                vif = devices["vifs"].get(card.macAddress.lower())
                if vif is not None:
                    found[vif["id"]] = {
                        "model": _MODELS.get(type(card)),
                        "active": card.connectable.startConnected,
                        "sriov": isinstance(card, _Device.VirtualSriovEthernetCard),
                    }
        return found

    def own_disks(self, uuid: UUID) -> Sequence[int]:
        extra, hardware = self._hardware(uuid)
        volumes = devices_in(extra)["volumes"]
        return [
            int(disk.capacityInBytes or disk.capacityInKB * 1024)
            for address, disk in addresses(hardware).items()
            if address not in volumes and isinstance(disk, _Device.VirtualDisk)
        ]

    def seed_disc(self, uuid: UUID) -> bytes:
        for drive in self._hardware(uuid)[1]:
            if isinstance(drive, _Device.VirtualCdrom):
                return self._server.file(drive.backing.fileName) or b""
        return b""

    def seed(self, uuid: UUID) -> Mapping[str, bytes]:
        import pycdlib

        files: dict[str, bytes] = {}
        disc = self.seed_disc(uuid)
        if disc:
            iso: Any = pycdlib.PyCdlib()
            iso.open_fp(BytesIO(disc))
            for folder, _, names in iso.walk(rr_path="/"):
                for name in names:
                    path, data = f"{folder.rstrip('/')}/{name}", BytesIO()
                    iso.get_file_from_iso_fp(data, rr_path=path)
                    files[path.lstrip("/")] = data.getvalue()
            iso.close()
        return files

    def read_only(self, uuid: UUID) -> frozenset[str]:
        extra, hardware = self._hardware(uuid)
        disks = addresses(hardware)
        return frozenset(
            volume["id"]
            for address, volume in devices_in(extra)["volumes"].items()
            if disks[address].backing.diskMode.endswith("nonpersistent")
        )

    def power_off(self, uuid: UUID) -> None:
        self._server.wait(self._server.machine(uuid).PowerOffVM_Task())

    def _hardware(self, uuid: UUID) -> tuple[dict[str, Any], list[Any]]:
        config = self._server.of(self._server.machine(uuid), "config")["config"]
        return {each.key: each.value for each in config.extraConfig}, config.hardware.device


def devices_in(extra: Mapping[str, Any]) -> dict[str, Any]:
    """What the driver says of the machine's devices."""
    devices: dict[str, Any] = json.loads(extra.get("hvdrivers.devices") or "{}")
    return {"own": {}, "volumes": {}, "vifs": {}} | devices


def addresses(hardware: Sequence[Any]) -> dict[str, Any]:
    """The disks by address."""
    kinds = (
        (_Device.VirtualSCSIController, "scsi"),
        (_Device.VirtualSATAController, "sata"),
        (_Device.VirtualNVMEController, "nvme"),
        (_Device.VirtualIDEController, "ide"),
    )
    names = {
        each.key: f"{name}{each.busNumber}"
        for each in hardware
        for kind, name in kinds
        if isinstance(each, kind)
    }
    return {
        f"{names[each.controllerKey]}:{each.unitNumber}": each
        for each in hardware
        if isinstance(each, _Device.VirtualDisk) and each.controllerKey in names
    }
