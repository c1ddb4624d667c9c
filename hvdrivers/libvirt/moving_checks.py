"""Whether, and how, a machine can move to another libvirt host: what the pre-check finds.

Disks are shared if both hosts see the same file: the same name in their pools, and the same time of
its last change down to the nanosecond. Everything else is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from uuid import UUID

import libvirt

from hvdrivers.contract import errors
from hvdrivers.contract.capabilities import Capability
from hvdrivers.libvirt.adopted import adoption_in
from hvdrivers.libvirt.backup_job import END_IT, OPEN, is_open
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.devices import source_of, vif_in_alias, vifs_of, volumes_of
from hvdrivers.libvirt.domains import xml_of
from hvdrivers.libvirt.encrypted_memory import is_encrypted
from hvdrivers.libvirt.host_nics import of_one_port, stays, wants_function
from hvdrivers.libvirt.metadata import record_in
from hvdrivers.libvirt.move_mark import Step, mark_in
from hvdrivers.libvirt.moving_adopted import look as look_at_adopted
from hvdrivers.libvirt.moving_plan import Own, Plan, own_files, reaches, same_in
from hvdrivers.libvirt.naming import console_name
from hvdrivers.libvirt.network_checks import unfit_network
from hvdrivers.libvirt.pinning import has_own, own_cpus
from hvdrivers.libvirt.pools import backing_of, refresh
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.secrets import has_secrets
from hvdrivers.libvirt.session import Connection
from hvdrivers.libvirt.xml import attribute, parse
from hvdrivers.models.flavor import Flavor
from hvdrivers.models.migration import Blocker, BlockerKind, Destination
from hvdrivers.models.vif import Vif

_MIB = 1 << 20
_DIRECT = {"none", "directsync"}


class MovingChecks:
    """Look at both hosts. The other one has a driver of its own."""

    def __init__(self, here: Topic, there: Topic) -> None:
        self._here = here
        self._there = there

    def plan(
        self,
        uuid: UUID,
        domain: Remote,
        destination: Destination,
        *,
        running: bool,
        flavor: Flavor | None = None,
    ) -> Plan:
        """What the move comes to, with everything that speaks against it. Here 3 calls, 4 for one
        that runs, and 2 for each disk; there about 10, 2 for each disk and NIC, 4 for a NIC on a
        libvirt network.

        Args:
            flavor: that it has there; None: its own.
        """
        plan = Plan(xml_of(domain, inactive=not running))
        if self._there.facts.host_uuid() == self._here.facts.host_uuid():
            plan.add(BlockerKind.STATE, "the instance is on this host already")
            return plan
        vifs = [each for each in destination.vifs if not wants_function(each)]
        for each in destination.vifs:
            if each not in vifs:
                _add_host_nic(plan, each.id)
        try:
            plan.rewiring = self._there.rewirings.find(uuid, plan.xml, destination.volumes, vifs)
        except errors.NetworkNotFound as error:
            plan.add(BlockerKind.NETWORK, error.message, hint=error.hint)
        except (errors.VolumeNotFound, errors.DeviceBusy) as error:
            plan.add(BlockerKind.STORAGE, error.message, hint=error.hint)
        except errors.NotSupported as error:
            if not self._are_refused(vifs):
                raise
            plan.add(BlockerKind.NETWORK, error.message, hint=error.hint)
        if running:
            plan.blockers.extend(plan.rewiring.seen_by_guest(plan.xml))
        self._look_at_host_nics(plan)  # those that it has, and those that it would get
        plan.xml = plan.rewiring.on(plan.xml)
        self._look_at_host_nics(plan)
        for look in (
            partial(self._look_at_identity, uuid),
            self._look_at_moves,
            partial(self._look_at_backups, domain),
            self._look_at_machine,
            self._look_at_devices,
            partial(self._look_at_cpus, flavor),
            partial(self._look_at_disks, uuid, domain),
            self._look_at_volumes,
            self._look_at_nics,
        ):
            look(plan)
        return plan

    def _are_refused(self, vifs: Sequence[Vif]) -> bool:
        """After a failure: whether a network, or the path of a socket, there is not for a NIC."""
        try:
            self._there.networks.require(vifs)
        except (errors.NotSupported, errors.InvalidRequest):
            return True
        return False

    def _look_at_identity(self, uuid: UUID, plan: Plan) -> None:
        try:
            self._there.connection.remote.lookupByUUIDString(str(uuid))
        except errors.InstanceNotFound:
            return
        plan.add(
            BlockerKind.STATE,
            "a machine with this UUID is there",
            hint="get_instance() there shows it: destroy() the one of both that is too many, unless"
            " they have the same disks",
        )

    @staticmethod
    def _look_at_moves(plan: Plan) -> None:
        mark = mark_in(plan.xml)
        if mark is not None and mark.step is Step.FINISHED:
            plan.add(
                BlockerKind.STATE,
                "what it was before a move in steps is kept on this host",
                hint="confirm_move() or revert_move()",
            )

    @staticmethod
    def _look_at_backups(domain: Remote, plan: Plan) -> None:
        if plan.xml.get("id") is not None and is_open(domain):
            plan.add(BlockerKind.STATE, OPEN, hint=END_IT)

    def _look_at_machine(self, plan: Plan) -> None:
        if self._there.facts.architecture() != self._here.facts.architecture():
            plan.add(
                BlockerKind.CPU, f"the host's architecture is {self._there.facts.architecture()}"
            )
            return
        machine = attribute(plan.xml, "os/type", "machine")
        if machine is not None and machine not in self._there.facts.machines():
            plan.add(
                BlockerKind.VERSION,
                f"the host's QEMU has no machine type {machine}",
                hint="it is older: update it",
            )
        if plan.xml.get("type") == "kvm" and not self._there.facts.kvm_offered():
            plan.add(BlockerKind.CPU, "the host has no KVM")
        if is_encrypted(plan.xml) and Capability.SEV in self._there.facts.narrowed():
            plan.add(BlockerKind.CPU, "the host encrypts no memory (SEV), and the machine's is")
        wanted = int(plan.xml.findtext("memory") or 0) >> 10
        total = int(self._there.connection.remote.getInfo()[1])
        if wanted > total:
            plan.add(
                BlockerKind.RESOURCES, f"the machine has {wanted} MiB of memory, the host {total}"
            )

    @staticmethod
    def _look_at_host_nics(plan: Plan) -> None:
        known = {each.device for each in plan.blockers}
        for vif_id, nic in vifs_of(plan.xml).items():
            if stays(*nic) and vif_id not in known:
                _add_host_nic(plan, vif_id)

    def _look_at_devices(self, plan: Plan) -> None:
        for device in plan.xml.iterfind("devices/hostdev"):
            name = attribute(device, "alias", "name")
            if vif_in_alias(name or "") is None:
                plan.add(BlockerKind.DEVICE, "it has a device of this host", device=name)
        runs = plan.xml.get("id") is not None
        if runs and own_cpus(plan.xml, self._here.config.aside):
            plan.add(
                BlockerKind.DEVICE,
                "it has CPUs of this host to itself",
                hint="power_off() it first: it gets others when it starts there",
            )
        for share in plan.xml.iterfind("devices/filesystem"):
            tag = attribute(share, "target", "dir")
            plan.add(BlockerKind.DEVICE, "it has a directory of this host", device=tag)

    def _look_at_cpus(self, flavor: Flavor | None, plan: Plan) -> None:
        record = record_in(plan.xml)
        reason = self._there.facts.narrowed().get(Capability.CPU_PINNING)
        if reason is not None and has_own(flavor or record.flavor, record.numa):
            plan.add(
                BlockerKind.RESOURCES,
                f"it wants dedicated CPUs, and would share those of the other host: {reason}",
                hint="connect(dedicated_cpus=) names CPUs that both hosts have set aside",
            )

    # ---- storage ---------------------------------------------------------------------------------

    def _look_at_disks(self, uuid: UUID, domain: Remote, plan: Plan) -> None:
        if domain.snapshotNum(0):
            plan.add(BlockerKind.STORAGE, "it has snapshots", hint="delete them first")
            return
        plan.adoption = adoption_in(plan.xml)
        if plan.adoption is not None:
            look_at_adopted(self._here, self._there, domain, plan, plan.adoption)
            self._look_at_room(plan, self._there.pools.disks())
            return
        plan.disks = list(own_files(self._here.connection.remote, plan.xml))
        if (blocker := elsewhere(self._here, plan.disks)) is not None:
            plan.blockers.append(blocker)
            return
        pool = self._there.pools.disks()
        refresh(pool)
        same = [same_in(each.volume, pool, each.name) for each in plan.disks]
        plan.shared = bool(same) and all(each is True for each in same)
        consoles = self._there.pools.consoles()
        refresh(consoles)
        name = console_name(uuid)
        log = self._here.pools.consoles().storageVolLookupByName(name)
        found = same_in(log, consoles, name)
        plan.log_shared = found is True
        rest = [
            each.name for each, is_same in zip(plan.disks, same, strict=True) if is_same is False
        ]
        if (rest and not plan.shared) or found is False:
            plan.add(
                BlockerKind.STATE,
                "the rest of an earlier machine with this UUID is there",
                hint="destroy() it there",
            )
        self._look_at_room(plan, pool)

    def _look_at_room(self, plan: Plan, pool: Remote) -> None:
        if plan.shared:
            self._look_at_caches(plan)
        else:
            needed, room = sum(map(self._allocation, plan.disks)), int(pool.info()[3])
            if needed > room:
                plan.lacks_room = True
                plan.add(
                    BlockerKind.STORAGE,
                    f"the disks take {needed // _MIB} MiB, and storage pool '{pool.name()}' has"
                    f" room for {room // _MIB}",
                )

    def _allocation(self, disk: Own) -> int:
        """Bytes that a copy takes, which stands alone."""
        _, capacity, taken = map(int, disk.volume.info())
        base = backing_of(parse(disk.volume.XMLDesc(0)))
        if base is None:
            return taken
        try:
            below = self._here.connection.remote.storageVolLookupByPath(base[0])
        except errors.VolumeNotFound:
            return capacity  # an adopted machine's, in no pool
        return taken + int(below.info()[2])

    @staticmethod
    def _look_at_caches(plan: Plan) -> None:
        for disk in plan.xml.iterfind("devices/disk"):
            cache = attribute(disk, "driver", "cache")
            if disk.find("readonly") is None and cache not in _DIRECT:
                plan.add(
                    BlockerKind.STORAGE,
                    f"this host caches a shared disk (cache={cache}), and the other would not see"
                    " what is in that cache",
                    hint='connect(disk_cache="none") for new machines',
                    device=attribute(disk, "target", "dev"),
                )

    def _look_at_volumes(self, plan: Plan) -> None:
        if plan.xml.find("devices/disk/mirror") is not None:
            plan.add(
                BlockerKind.STORAGE,
                "a swap_volume() or migrate_storage() of the machine is under way",
                hint="call again when it has ended",
            )
        for volume_id, disk in volumes_of(plan.xml).items():
            if attribute(disk, "alias", "name") in plan.rewiring.devices:
                continue  # it has been found there
            if has_secrets(disk):
                plan.add(
                    BlockerKind.STORAGE,
                    "the host there has not the volume's password, which nobody can read here",
                    hint="detach_volume() it, and attach it there",
                    device=volume_id,
                )
            elif disk.get("type") != "network" and not reaches(
                self._here, self._there, source_of(disk)
            ):
                plan.add(
                    BlockerKind.STORAGE,
                    "the volume is a file or a device of this host",
                    device=volume_id,
                )

    # ---- network ---------------------------------------------------------------------------------

    def _look_at_nics(self, plan: Plan) -> None:
        names: set[str] = set()
        for interface in plan.xml.iterfind("devices/interface"):
            unfit = unfit_network(self._there.connection.remote, interface)
            device = attribute(interface, "alias", "name")
            if unfit is not None:
                plan.add(BlockerKind.NETWORK, unfit.message, hint=unfit.hint, device=device)
            names.add(attribute(interface, "target", "dev") or "")
        # libvirt itself names vnet0, ..., anew
        mine = [each for each in names if each and not each.startswith("vnet")]
        for name in sorted(_devices_in_use(self._there.connection)):
            if not any(of_one_port(name, each) for each in mine):
                continue
            plan.add(BlockerKind.NETWORK, f"a machine there has this port ({name})")


def _add_host_nic(plan: Plan, vif_id: str) -> None:
    plan.add(
        BlockerKind.DEVICE,
        "the NIC is a device of one host",
        hint="unplug_vif() it, and plug_vif() one of the other host's there",
        device=vif_id,
    )


def elsewhere(here: Topic, own: list[Own]) -> Blocker | None:
    """Why an instance stays of which migrate_storage() has moved a disk. No call."""
    folder = here.pools.disk_path("")
    for each in own:
        if not each.path.startswith(folder):
            return Blocker(
                kind=BlockerKind.STORAGE,
                reason=f"the disk {each.path} is in another storage pool than the driver's own",
                hint=f"migrate_storage() the instance to the pool '{here.config.pool}' first",
                device=each.target,
            )
    return None


def _devices_in_use(connection: Connection) -> set[str]:
    """Devices of the NICs of machines that are on. One call."""
    flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
    flags |= libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
    return {
        str(stats.get(f"net.{number}.name"))
        for _, stats in connection.remote.getAllDomainStats(
            libvirt.VIR_DOMAIN_STATS_INTERFACE, flags
        )
        for number in range(stats.get("net.count", 0))
    }
