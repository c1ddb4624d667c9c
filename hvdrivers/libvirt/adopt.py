"""adopt(): a machine that others have made becomes an instance, as it is.

Only marks are written: the record and the disks into the metadata of the domain, which libvirt
gives back as they are, and then the secret that makes it an instance (see ``identity.py``). Until
the secret is there the machine is foreign. What a client that died has left in the metadata the
next adopt() writes anew. A turn keeps two clients apart (see ``turns.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from uuid import UUID

from hvdrivers.contract import errors
from hvdrivers.contract.driver import check_state
from hvdrivers.contract.lifecycle import Adopt
from hvdrivers.driverkit.deadline import current_deadline
from hvdrivers.driverkit.undo import Undo, undoing
from hvdrivers.libvirt.adopted import ADOPTED_NAMESPACE, adoption_in
from hvdrivers.libvirt.adopting import foreign_marks
from hvdrivers.libvirt.base import Topic
from hvdrivers.libvirt.domains import LookAgain, affecting, xml_of
from hvdrivers.libvirt.halves import unwritten
from hvdrivers.libvirt.held_volumes import in_both
from hvdrivers.libvirt.identity import Mark
from hvdrivers.libvirt.metadata import NAMESPACE, Record, keep, record_text
from hvdrivers.libvirt.naming import is_helper
from hvdrivers.libvirt.remote import Remote
from hvdrivers.libvirt.shown import shown, shown_in
from hvdrivers.libvirt.sizes import vcpus_of
from hvdrivers.libvirt.turns import Turn
from hvdrivers.libvirt.xml import Element
from hvdrivers.models.base import is_name
from hvdrivers.models.instance import Firmware, Flavor, InstanceInfo
from hvdrivers.models.state import InstanceState

_LEAST_MIB = 16


class LibvirtAdopt(Topic, Adopt):
    """Adopt."""

    def adopt(
        self,
        uuid: UUID,
        *,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> InstanceInfo:
        """Budget: 18 calls for a machine that is on and has no disk, 19 for one that is off; for
        each disk 2 more and those of delete_volume(), and 2 and 1 for each pool where no pool knows
        the file; where the firmware keeps variables 1, and 1
        for each machine of the host; 1 for each mark that the machine has as a copy of an instance.
        5 for an instance that is on, 6 for one that is off; an adopted one takes 3 more."""
        del timeout
        deadline = current_deadline()
        domain = self.connection.remote.lookupByUUIDString(str(uuid))
        if is_helper(domain.name()):
            raise errors.InstanceNotFound("this is no machine: it is there for an operation")
        if self.identity.label(domain.name(), uuid) is not None:
            return self._ours(uuid)
        self._require_whole(uuid, domain, name)
        with self.turns.take(uuid, deadline) as turn:
            while True:
                if self.identity.label(domain.name(), uuid) is not None:
                    return self._ours(uuid)
                try:
                    with undoing() as undo:
                        return self._adopted(turn, domain, name, dict(metadata or {}), undo)
                except LookAgain:
                    deadline.check("the machine was started or switched off meanwhile")

    def _ours(self, uuid: UUID) -> InstanceInfo:
        _, state = self.domains.checked("adopt", uuid, current_deadline())
        domain, label = self.domains.named(uuid)
        return shown(uuid, domain, state, label)

    def _require_whole(
        self, uuid: UUID, domain: Remote, name: str | None
    ) -> tuple[InstanceState, str]:
        """State and label of a machine, if it may be adopted. Three calls, four for one that is
        off."""
        state = self.domains.state(domain, rescued=False)
        check_state("adopt", state, uuid)
        label = name if name is not None else domain.name()
        if not is_name(label):
            raise errors.InvalidRequest(
                "the machine's own name is no valid label", instance=uuid, hint="give name="
            )
        if not domain.isPersistent():
            raise errors.InvalidRequest(
                "the machine has no definition: it vanishes when it stops",
                instance=uuid,
                hint="define it first: virsh dumpxml --inactive, virsh define",
            )
        if domain.snapshotNum(0):
            raise errors.InvalidRequest(
                "the machine has snapshots, which others have made",
                instance=uuid,
                hint="delete them first: virsh snapshot-delete",
            )
        return state, label

    def _adopted(
        self, turn: Turn, domain: Remote, name: str | None, metadata: dict[str, str], undo: Undo
    ) -> InstanceInfo:
        uuid = UUID(domain.UUIDString())
        state, label = self._require_whole(uuid, domain, name)
        off = state is InstanceState.STOPPED
        defined = xml_of(domain, inactive=True)
        adoption = self.adopting.adoption(uuid, defined, None if off else xml_of(domain))
        flags = affecting(domain, state)
        for namespace in foreign_marks(defined):
            keep(domain, namespace, None, flags)
        record = _record(label, metadata, defined)
        for namespace, content in (
            (NAMESPACE, record_text(record)),
            (ADOPTED_NAMESPACE, adoption.text()),
        ):
            undo.callback(partial(self._forget, uuid, namespace))
            try:
                keep(domain, namespace, content, flags)
            except errors.InvalidState as error:
                raise LookAgain from error  # it went off
        now = xml_of(domain)
        if adoption_in(now) != adoption or (now.get("id") is None) is not off:
            raise LookAgain
        turn.check()
        try:
            self.identity.put(Mark(uuid, label, state))
        except errors.OutcomeUnknown:
            undo.forget_all()
            raise
        undo.forget_all()
        return shown_in(now, uuid, domain, state, label)

    def _forget(self, uuid: UUID, namespace: str) -> None:
        # looked up now: this is how things are undone after a connection was lost
        with suppress(errors.InstanceNotFound):
            domain = self.connection.remote.lookupByUUIDString(str(uuid))
            if self.identity.label(domain.name(), uuid) is None:
                with unwritten():
                    in_both(partial(keep, domain, namespace, None))


def _record(label: str, metadata: dict[str, str], defined: Element) -> Record:
    vcpu = defined.find("vcpu")
    vcpus = vcpus_of(defined) or 1
    most = int((vcpu.text or "1").strip()) if vcpu is not None else vcpus
    memory = int(defined.findtext("memory") or 0) >> 10
    loader = defined.find("os/loader")
    efi = defined.find("os[@firmware='efi']") is not None or (
        loader is not None and loader.get("type") == "pflash"
    )
    return Record(
        name=label,
        flavor=Flavor(
            vcpus=vcpus,
            memory_mib=max(_LEAST_MIB, memory),
            max_vcpus=most if most > vcpus else None,
        ),
        metadata=metadata,
        firmware=Firmware.UEFI if efi else Firmware.BIOS,
    )
